"""A fleet in one folder: jobs of two small files, and Celery with a broker that needs nothing installed."""

import pytest

collect_ignore_glob: list[str] = []
try:
    import celery  # noqa: F401
    import fsspec  # noqa: F401
except ImportError:  # requirements-fleet.txt
    collect_ignore_glob = [
        "test_broker*",
        "test_checks*",
        "test_files*",
        "test_job*",
        "test_rendering*",
        "test_states*",
        "test_submit*",
        "test_task*",
        "test_waiting*",
        "test_worker*",
    ]


def forget_other_folders() -> None:
    """kombu keeps connections and queues of a process by address, and all folders have the same one."""
    from kombu import pools
    from kombu.transport.filesystem import Transport

    pools.reset()
    Transport.global_state.clear()


@pytest.fixture(autouse=True)
def no_fleet_of_the_user(monkeypatch):
    """What stands in the environment is for the fleet of whoever runs the tests."""
    for name in ("WAN_S2V_BROKER", "WAN_S2V_RESULTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def files(tmp_path):
    """The needed options of a job, with inputs that are there."""
    for name in ("me.png", "me.wav"):
        (tmp_path / name).write_bytes(name.encode())
    return {"image": str(tmp_path / "me.png"), "audio": str(tmp_path / "me.wav"), "output": str(tmp_path / "out" / "talk.mp4")}


@pytest.fixture
def broker(tmp_path):
    from wan_s2v_pack.cli.fleet.broker import Broker

    return Broker(str(tmp_path / "fleet"))


@pytest.fixture
def app(broker):
    from wan_s2v_pack.cli.fleet.broker import make_app

    forget_other_folders()
    return make_app(broker)
