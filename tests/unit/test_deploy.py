"""What stands in deploy/ fits the commands and the metrics of the pack. Linters that need a network or an engine: docs/scale.md."""

import argparse
import json
import re
from pathlib import Path

import pytest
import yaml
from wan_s2v_pack.cli import fleet

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
MANIFESTS = [
    item for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")) for item in yaml.safe_load_all(path.read_text(encoding="utf-8"))
]
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
EVENTS = {"task-clip", "task-resumed"}


def the(kind):
    (found,) = [item for item in MANIFESTS if item["kind"] == kind]
    return found


def commands():
    """The arguments of every worker that is started anywhere."""
    yield json.loads(re.search(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)[1])
    yield from (service["command"] for name, service in COMPOSE["services"].items() if name.startswith("worker"))
    yield the("ScaledJob")["spec"]["jobTargetRef"]["template"]["spec"]["containers"][0]["args"]


@pytest.mark.parametrize("arguments", list(commands()))
def test_workers_are_started_with_options_that_there_are(arguments):
    parser = argparse.ArgumentParser()
    fleet.add_parser(parser.add_subparsers())
    options = parser.parse_args(arguments)
    assert (options.models_dir, options.output_dir) == (Path("/models"), Path("/output"))


def test_a_grace_ends_before_the_machine_does():
    pod = the("ScaledJob")["spec"]["jobTargetRef"]["template"]["spec"]
    (grace,) = [float(word.split("=")[1]) for word in pod["containers"][0]["args"] if word.startswith("--grace=")]
    assert grace + 20 <= pod["terminationGracePeriodSeconds"]
    for name in ("worker-0", "worker-1"):
        command = COMPOSE["services"][name]["command"]
        assert float(command[command.index("--grace") + 1]) + 20 <= float(COMPOSE["services"][name]["stop_grace_period"].removesuffix("s"))


def test_nothing_runs_as_root():
    assert re.search(r"^USER 10001$", DOCKERFILE, re.MULTILINE)
    for pod in (the("ScaledJob")["spec"]["jobTargetRef"]["template"]["spec"], the("Deployment")["spec"]["template"]["spec"]):
        assert pod["securityContext"]["runAsNonRoot"]


def test_passwords_are_no_words_of_a_command():
    """Everybody on the machine reads those."""
    flower = the("Deployment")["spec"]["template"]["spec"]["containers"][0]
    services = COMPOSE["services"].values()
    said = json.dumps([flower["command"], *([service.get("command"), service.get("entrypoint")] for service in services)])
    assert "PASSWORD" not in said
    assert "BROKER" not in said
    assert "CELERY_BROKER_URL" in {entry["name"] for entry in flower["env"]} & COMPOSE["services"]["flower"]["environment"].keys()


def test_ports_are_open_to_this_machine_alone():
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    published = re.findall(r"docker run [^`]*-p ([\d.:]+)", (ROOT / "docs" / "scale.md").read_text(encoding="utf-8"))
    assert published
    assert all(port.startswith("127.0.0.1:") for port in ports + published)


def test_scaling_looks_at_the_queue_of_the_fleet_with_the_jobs_at_work():
    (trigger,) = the("ScaledJob")["spec"]["triggers"]
    assert (trigger["metadata"]["queueName"], trigger["metadata"]["protocol"]) == ("wan_s2v", "http")
    assert f'QUEUE, DEAD = "{trigger["metadata"]["queueName"]}"' in (ROOT / "cli" / "fleet" / "broker.py").read_text(encoding="utf-8")


def test_files_that_are_copied_are_there():
    for line in re.findall(r"^COPY (.*)$", DOCKERFILE, re.MULTILINE):
        assert all((ROOT / name).exists() for name in line.split()[:-1])


def test_the_dashboard_shows_the_events_that_workers_send():
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    shown = {event for query in queries for event in re.findall(r'type="(task-[\w-]+)"', query)}
    sent = set(re.findall(r'_tell\("(task-[\w-]+)"', (ROOT / "cli" / "fleet" / "task.py").read_text(encoding="utf-8")))
    assert EVENTS == sent <= shown
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(queries)


def test_the_example_of_the_page_is_short():
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "scale.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(example.splitlines()) <= 20
    compile(example, "scale.md", "exec")
