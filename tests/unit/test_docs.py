"""The documents say what the code says."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HELP = ROOT / "web" / "docs"
GUIDES = ROOT / "docs"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *HELP.glob("*.md")])
SOURCES = sorted(path for folder in ("nodes", "wan_s2v_model", "cli", "scripts") for path in (ROOT / folder).rglob("*.py"))
PYTHON_FILES = sorted(
    path
    for folder in (".", "bench", "cli", "nodes", "scripts", "tests", "tts_worker", "wan_s2v_model")
    for path in (ROOT / folder).glob("*.py" if folder == "." else "**/*.py")
)
PRIVATE_PATH = re.compile(r"(?<![\w.])/(work|tmp|root|home|Users|mnt|opt)/")
HEAD = re.compile(r"^\|.*\n\|[-:| ]+\|$", re.MULTILINE)  # of a table
PYTHON_FILE = re.compile(r"(?<![\w.-])(?:[\w-]+/)*\w+\.py\b")
FILES_OF_OTHERS = {"main.py", "folder_paths.py"}  # of ComfyUI
LINK = re.compile(r"\]\(([^)\s]+)\)")


# --- what the code says, without ComfyUI


@cache
def schemas() -> dict[str, ast.Call]:
    """Node id -> the io.Schema(...) call of its class."""
    calls = (item for path in sorted((ROOT / "nodes").glob("*.py")) for item in ast.walk(parse(path)) if is_call_of(item, "io.Schema"))
    return {keyword(call, "node_id").value: call for call in calls}


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def is_call_of(item: ast.AST, name: str) -> bool:
    return isinstance(item, ast.Call) and ast.unparse(item.func) == name


def keyword(call: ast.Call, name: str) -> ast.expr | None:
    return next((item.value for item in call.keywords if item.arg == name), None)


def inputs(schema: ast.Call) -> list[ast.Call]:
    return keyword(schema, "inputs").elts


@cache
def texts() -> list[str]:
    """All string literals of the code; f-strings give their fixed parts."""
    literals = (item for path in SOURCES for item in ast.walk(parse(path)) if isinstance(item, ast.Constant))
    return [item.value for item in literals if isinstance(item.value, str)]


# --- what the documents say


def section(path: Path, title: str) -> str:
    """The text under a heading, up to the next heading."""
    text = path.read_text(encoding="utf-8")
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#+ |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"{path.name} has no section {title}"
    return found[1]


def table(text: str) -> list[list[str]]:
    """Cells of the rows of all tables, without their heads."""
    rows = HEAD.sub("", text).splitlines()
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if row.startswith("|")]


def code_in(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def python_blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


# --- README and the others


def test_page_of_nodes_lists_every_node_once():
    rows = table((GUIDES / "nodes.md").read_text(encoding="utf-8"))
    titles = {name: keyword(schema, "display_name").value for name, schema in schemas().items()}
    assert len(rows) == len(titles)
    assert {code_in(row[2])[0]: row[0] for row in rows} == {name: f"[{title}](../web/docs/{name}.md)" for name, title in titles.items()}


def test_every_error_text_of_the_troubleshooting_page_is_in_the_code():
    messages = [text for row in table((GUIDES / "troubleshooting.md").read_text(encoding="utf-8")) for text in code_in(row[0])]
    assert messages
    assert [message for message in messages if not any(message in text for text in texts())] == []


def test_readme_or_guide_names_every_template():
    """By its title, which is its file; those of an App end differently there."""
    named = set(re.findall(r"^\| \*\*(.+?)\*\* \|", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE))
    guide = (GUIDES / "direction.md").read_text(encoding="utf-8")
    titles = {path.stem.removesuffix(".app") for path in (ROOT / "workflows").glob("*.json")}
    assert {title for title in titles - named if f"**{title.removesuffix(' (Wan S2V)')}**" not in guide} == set()


def test_index_lists_every_document():
    links = {link.split("#")[0] for link in LINK.findall((GUIDES / "README.md").read_text(encoding="utf-8"))}
    assert links >= {path.name for path in GUIDES.glob("*.md")} - {"README.md"}


def test_every_decision_has_a_number_of_its_own():
    numbers = [path.name.split("-")[0] for path in sorted((GUIDES / "adr").glob("*.md"))]
    assert numbers == [f"{number:04}" for number in range(1, len(numbers) + 1)]


REPORT = re.compile(r"\[[^]]*#\d+\]\(https://github\.com/[\w.-]+/[\w.-]+/(?:issues|pull)/\d+\)")
REPORTS = table((GUIDES / "tried.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize("row", REPORTS, ids=[row[0].split("]")[0].strip("[") for row in REPORTS])
def test_every_report_has_its_number_a_symptom_and_a_guard(row):
    report, symptom, here, guard = row
    assert REPORT.findall(report) == report.split(", ")
    assert symptom
    assert here.endswith(".")
    (target,) = LINK.findall(guard)
    assert target.startswith("../tests/") or target.split("#")[0] in {path.name for path in GUIDES.glob("*.md")}


DIRECTIONS = table((GUIDES / "direction.md").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("node", "settings"), [row[1:3] for row in DIRECTIONS], ids=[row[0] for row in DIRECTIONS])
def test_directions_name_inputs_of_their_node(node, settings):
    (page,) = LINK.findall(node)
    known = {call.args[0].value for call in inputs(schemas()[Path(page).stem])}
    assert "docs/direction.md" in (GUIDES / page).read_text(encoding="utf-8")
    assert code_in(settings)
    assert set(code_in(settings)) <= known


def test_changelog_has_the_version_of_the_pack():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)[1]
    assert re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)[0] == version


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(path):
    links = LINK.findall(path.read_text(encoding="utf-8"))
    targets = [link.split("#")[0] for link in links if not re.match(r"[a-z]+:", link)]
    assert [target for target in targets if not (path.parent / target).exists()] == []


@cache
def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_into_a_page_lead_to_a_heading(path):
    """A heading that was renamed left links to the top of its page."""
    links = [link for link in LINK.findall(path.read_text(encoding="utf-8")) if not re.match(r"[a-z]+:", link)]
    pages = [(path.parent / page if page else path, anchor) for page, _, anchor in (link.partition("#") for link in links) if anchor]
    assert [anchor for page, anchor in pages if page.suffix == ".md" and anchor not in anchors(page.resolve())] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_path_of_one_machine(path):
    assert PRIVATE_PATH.findall(path.read_text(encoding="utf-8")) == []


def docstrings(path: Path) -> str:
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return "\n".join(ast.get_docstring(item) or "" for item in ast.walk(parse(path)) if isinstance(item, documented))


@pytest.mark.parametrize("path", [*DOCUMENTS, *PYTHON_FILES], ids=lambda path: str(path.relative_to(ROOT)))
def test_python_files_that_are_named_exist(path):
    """Guards against names that a move has left behind."""
    text = docstrings(path) if path.suffix == ".py" else path.read_text(encoding="utf-8")
    known = {*FILES_OF_OTHERS, *(f"{file.relative_to(ROOT).as_posix()}" for file in PYTHON_FILES)}
    assert [name for name in PYTHON_FILE.findall(text) if not any(f"/{file}".endswith(f"/{name}") for file in known)] == []


# --- docs/api.md


def test_python_of_the_api_page_fits_the_client():
    blocks = [ast.parse(block) for block in python_blocks(ROOT / "docs" / "api.md")]
    client = parse(ROOT / "cli" / "comfyui" / "client.py")
    known = {item.name for item in ast.walk(client) if isinstance(item, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)}
    used = {alias.name for block in blocks for item in ast.walk(block) if isinstance(item, ast.ImportFrom) for alias in item.names}
    attributes = (item for block in blocks for item in ast.walk(block) if isinstance(item, ast.Attribute))
    used |= {item.attr for item in attributes if ast.unparse(item.value) == "client"}
    assert used - {"Path"} <= known
    assert "run" in used


def test_api_page_names_the_nodes_of_the_workflow():
    prompt = json.loads((ROOT / "cli" / "workflows" / "quick_start.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"`(\d+)` (\w+)", page))
    assert named
    assert {node: prompt[node]["class_type"] for node in named} == named
