"""The layout of the pack, read from its source: which folder may import which, how large files and folders are, where tests stand."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from wan_s2v_pack.scripts.pictures.map import PACKAGE, PICTURE, WAY, draw, imports_of, module_of, room_of, sources
from wan_s2v_pack.tests.systems import from_checkout

ROOT = Path(__file__).resolve().parents[2]
FLOORS = (  # lowest first: a folder imports only from the floors below its own
    {PACKAGE},  # the modules beside the folders
    {"kernels"},
    {"transformer", "media"},
    {"checkpoints", "audio"},
    {"conditioning"},
    {"cost", "sampling"},
    {"runs", "comfy_bridge", "reports"},
    {"nodes"},
    {"cli"},
    {"scripts"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
BRIDGE = "comfy_bridge"
COMFY_ROOT_MODULES = {"folder_paths", "nodes", "execution", "server", "latent_preview", "node_helpers", "app"}
ALLOWED_IN_NODES = {"comfy_api", "folder_paths", "torch"} | sys.stdlib_module_names
VAGUE_NAMES = {"utils", "util", "helpers", "common", "misc"}
SOURCE_FOLDERS = (PACKAGE, "nodes", "tts_worker", "cli", "scripts", "bench", "tests")
MOST_LINES, MOST_COMPLEX, FEWEST_MODULES, MOST_MODULES = 400, 10, 4, 12
TESTED_IN_COMFYUI = {BRIDGE}  # by tests/golden and tests/integration
WITHOUT_TEST_OF_ITS_OWN = {
    "media/video_formats",  # a table, tried row by row in test_video_writer.py
    "transformer/config",  # numbers, compared with the checkpoint in test_constants.py
}
IMPORT_CLI = "import sys, cli.doctor, cli.models.download, cli.predict, cli.runs; assert not {'torch', 'comfy'} & sys.modules.keys()"


def import_problems(root) -> list[str]:
    problems = []
    for path in sources(root, PACKAGE, "nodes", "cli", "scripts"):
        module = module_of(root, path)
        if room_of(module) not in FLOOR_OF and module != (PACKAGE, "__init__"):
            problems.append(f"{'/'.join(module)}: give the new folder a floor in this test")
            continue
        for target, name in imports_of(root, path):
            problem = absolute_problem(module, name) if target is None else floor_problem(room_of(module), room_of(target))
            if problem:
                problems.append(f"{'/'.join(module)} imports {name}: {problem}")
    return problems


def absolute_problem(module, name) -> str | None:
    top = name.split(".")[0]
    if module[0] in ("cli", "scripts"):
        return floor_problem(module[0], room_of(tuple(name.split(".")))) if top in FLOOR_OF else None
    if top in (PACKAGE, "wan_s2v_pack"):
        return "inside the pack imports are relative"
    if module[0] == "nodes":
        return None if top in ALLOWED_IN_NODES else "nodes import only comfy_api, folder_paths, torch, the standard library and the package"
    if module[1] == BRIDGE:
        return None
    if name.endswith("()"):
        return "imports are written as statements"
    is_comfy = top.split("_")[0] == "comfy" or top in COMFY_ROOT_MODULES
    return f"only {BRIDGE} reaches ComfyUI" if is_comfy else None


def floor_problem(room, target) -> str | None:
    if target not in FLOOR_OF:
        return "not a folder of the pack"
    return None if room == target or FLOOR_OF[target] < FLOOR_OF.get(room, 0) else "does not stand below"


def import_cycle(root) -> list[str]:
    """The modules of one import cycle, empty if there is none."""
    files = {module_of(root, path): path for path in sources(root, PACKAGE, "nodes", "cli", "scripts")}
    graph = {module: {target for target, _ in imports_of(root, path) if target in files} for module, path in files.items()}
    finished = set()

    def visit(module, trail):
        if module in trail:
            return [*trail[trail.index(module) :], module]
        if module in finished:
            return []
        cycle = next(filter(None, (visit(target, [*trail, module]) for target in sorted(graph[module]))), [])
        finished.add(module)
        return cycle

    return ["/".join(module) for module in next(filter(None, (visit(module, []) for module in sorted(graph))), [])]


def print_calls(path) -> list[int]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "print"]


def size_problems(root) -> list[str]:
    """Files that are too long, and rooms with too many or too few modules or no sentence that says their purpose."""
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources(root, *SOURCE_FOLDERS)}
    problems = [f"{path.name} has {size} lines" for path, size in sizes.items() if size > MOST_LINES]
    for init in sorted((root / PACKAGE).glob("*/__init__.py")):
        modules = len(list(init.parent.glob("*.py"))) - 1
        if not FEWEST_MODULES <= modules <= MOST_MODULES:
            problems.append(f"{init.parent.name} has {modules} modules")
        if ": " not in (ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or ""):
            problems.append(f"{init.parent.name} does not say 'purpose: what may be changed there' in its docstring")
    return problems


def complexity_problems(root) -> str:
    """What ruff says of functions that are too complex, each on a line."""
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select=C901", f"--config=lint.mccabe.max-complexity={MOST_COMPLEX}"]
    folders = [str(root / folder) for folder in SOURCE_FOLDERS if (root / folder).is_dir()]
    return subprocess.run([*ruff, "--quiet", "--output-format=concise", *folders], capture_output=True, text=True).stdout


def misplaced_tests(root) -> list[str]:
    """Modules without tests/unit/<room>/test_<module>.py, and test files of a room that name no module there."""
    package, unit = root / PACKAGE, root / "tests" / "unit"
    modules = {path.relative_to(package).with_suffix("").as_posix() for path in package.rglob("*.py") if path.stem != "__init__"}
    tests = {path.relative_to(unit).with_name(path.stem.removeprefix("test_")).as_posix() for path in unit.glob("**/test_*.py")}
    rooms = {module.split("/")[0] for module in modules if "/" in module}
    untested = {module for module in modules - tests - WITHOUT_TEST_OF_ITS_OWN if module.split("/")[0] not in TESTED_IN_COMFYUI}
    strays = {test for test in tests if test.split("/")[0] in rooms and not any(belongs(test, module) for module in modules)}
    return [*(f"{module} has no test file" for module in sorted(untested)), *(f"{test} tests no module" for test in sorted(strays))]


def belongs(test, module) -> bool:
    """Whether a test file is that of a module, or a part of it: test_store.py and test_store_faults.py of store.py."""
    return test == module or test.startswith(f"{module}_")


def write_tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


# The pack


def test_folders_import_only_what_stands_below():
    assert import_problems(ROOT) == []


def test_every_floor_exists():
    present = {path.stem for folder in (ROOT, ROOT / PACKAGE) for path in folder.iterdir()}
    assert set(FLOOR_OF) - present == set()


def test_no_import_cycle():
    assert import_cycle(ROOT) == []


def test_command_line_starts_without_torch():
    subprocess.run(from_checkout(IMPORT_CLI), cwd=ROOT, check=True)


def test_files_and_folders_stay_readable():
    assert size_problems(ROOT) == []


def test_functions_stay_simple():
    assert complexity_problems(ROOT) == ""


def test_tests_mirror_the_tree():
    assert misplaced_tests(ROOT) == []


def test_no_vague_module_names():
    assert [path for path in sources(ROOT, *SOURCE_FOLDERS) if path.stem in VAGUE_NAMES] == []


def test_pack_never_prints():
    found = {path.name: print_calls(path) for path in [ROOT / "__init__.py", *sources(ROOT, PACKAGE, "nodes")]}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_map_tells_the_way_through_every_room():
    stations = re.findall(r"^\d+\. \*\*`(\w+)`", (ROOT / "docs" / "map.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert stations == list(WAY)
    assert sorted(stations) == sorted(path.parent.name for path in (ROOT / PACKAGE).glob("*/__init__.py"))


def test_map_is_drawn_from_the_code():
    assert (ROOT / PICTURE).read_text(encoding="utf-8") == draw(ROOT), f"run scripts/update, and look at {PICTURE}"


# The checkers

ROOM = {f"{PACKAGE}/{room}/__init__.py": '"""Purpose: change."""\n' for room in ("kernels", "transformer", "sampling", BRIDGE)}
GOOD = ROOM | {
    "nodes/__init__.py": "from comfy_api.latest import io\nfrom .text import Node\n",
    "nodes/text.py": "import folder_paths\nimport torch\nimport json\nfrom ..wan_s2v_model import comfy_bridge\nfrom .sockets import X\n",
    "nodes/sockets.py": "X = 1\n",
    "wan_s2v_model/__init__.py": "",
    "wan_s2v_model/constants.py": "import math\n",
    "wan_s2v_model/kernels/fused.py": "import numpy as np\nfrom ..constants import A\nfrom .. import constants\n",
    "wan_s2v_model/transformer/rope.py": "from ..kernels.fused import B\n",
    "wan_s2v_model/transformer/model.py": "from .rope import B\nfrom ..kernels import fused\n",
    "wan_s2v_model/sampling/clip_loop.py": "from ..transformer.model import C\n",
    "wan_s2v_model/comfy_bridge/model.py": "import comfy.sd\nimport latent_preview\nfrom ..sampling.clip_loop import D\n",
    "cli/runs.py": "from ..wan_s2v_model.constants import A\nfrom wan_s2v_model.constants import A\n",
    "scripts/make.py": "from cli.runs import A\nfrom ..cli.runs import A\n",
}


def test_checkers_accept_a_good_tree(tmp_path):
    root = write_tree(tmp_path, GOOD)
    assert import_problems(root) == []
    assert import_cycle(root) == []
    assert complexity_problems(root) == ""


@pytest.mark.parametrize(
    ("file", "line", "problem"),
    [
        ("transformer/rope.py", "from ..sampling.clip_loop import run", "rope imports ..sampling.clip_loop: does not stand below"),
        ("kernels/fused.py", "from .. import transformer", "fused imports ..transformer: does not stand below"),
        ("sampling/clip_loop.py", "def f():\n    from ..comfy_bridge import x", "does not stand below"),
        ("sampling/clip_loop.py", "from ...nodes.text import Node", "does not stand below"),
        ("sampling/clip_loop.py", "from ...cli.runs import A", "does not stand below"),
        ("comfy_bridge/model.py", "from ... import nodes", "does not stand below"),
        ("constants.py", "from .kernels import fused", "does not stand below"),
        ("__init__.py", "from .kernels import fused", "does not stand below"),
        ("sampling/clip_loop.py", "from ....elsewhere import B", "not a folder of the pack"),
        ("extra/new.py", "", "extra/new: give the new folder a floor"),
        ("sampling/clip_loop.py", "import comfy.utils", "only comfy_bridge reaches ComfyUI"),
        ("sampling/clip_loop.py", "def f():\n    from comfy_api.latest import io", "only comfy_bridge reaches ComfyUI"),
        ("transformer/model.py", "import folder_paths", "only comfy_bridge reaches ComfyUI"),
        ("transformer/model.py", "import nodes", "only comfy_bridge reaches ComfyUI"),
        ("sampling/clip_loop.py", "importlib.import_module('comfy.sd')", "imports are written as statements"),
        ("sampling/clip_loop.py", "__import__('comfy')", "imports are written as statements"),
        ("sampling/clip_loop.py", "from wan_s2v_model.transformer.rope import B", "inside the pack imports are relative"),
        ("../nodes/text.py", "import numpy as np", "nodes import only"),
        ("../nodes/text.py", "from comfy.utils import x", "nodes import only"),
        ("../nodes/text.py", "def f():\n    import nodes", "nodes import only"),
        ("../nodes/text.py", "from ..cli.runs import A", "does not stand below"),
        ("../cli/runs.py", "from ..scripts.make import A", "does not stand below"),
        ("../cli/runs.py", "from scripts.make import A", "does not stand below"),
    ],
)
def test_checker_finds_each_wrong_import(tmp_path, file, line, problem):
    root = write_tree(tmp_path, GOOD)
    path = (root / PACKAGE / file).resolve()
    write_tree(root, {path: (path.read_text() if path.exists() else "") + line + "\n"})
    problems = import_problems(root)
    assert len(problems) == 1
    assert problem in problems[0]


def test_checker_finds_a_cycle_inside_a_folder(tmp_path):
    root = write_tree(tmp_path, {**GOOD, "wan_s2v_model/transformer/rope.py": "def f():\n    from .model import A\n"})
    assert import_problems(root) == []
    cycle = import_cycle(root)
    assert cycle[0] == cycle[-1]
    assert set(cycle) == {"wan_s2v_model/transformer/model", "wan_s2v_model/transformer/rope"}


def test_checker_finds_sizes_and_rooms_without_purpose(tmp_path):
    modules = {f"{PACKAGE}/kernels/m{index}.py": "" for index in range(12)}
    root = write_tree(tmp_path, {**GOOD, **modules, f"{PACKAGE}/sampling/__init__.py": "", "cli/long.py": "\n" * 401})
    assert [problem for problem in size_problems(root) if "modules" not in problem] == [
        "long.py has 401 lines",
        "sampling does not say 'purpose: what may be changed there' in its docstring",
    ]
    assert {"kernels has 13 modules", "transformer has 2 modules"} <= set(size_problems(root))


def test_checker_finds_a_complex_function(tmp_path):
    branches = "".join(f"    if x == {number}:\n        return {number}\n" for number in range(MOST_COMPLEX))
    root = write_tree(tmp_path, {**GOOD, "nodes/text.py": f"def simple():\n    pass\n\n\ndef tangled(x):\n{branches}"})
    assert complexity_problems(root).count("C901") == 1
    assert "`tangled` is too complex (11 > 10)" in complexity_problems(root)


def test_checker_finds_tests_in_the_wrong_place(tmp_path):
    names = "kernels/test_fused", "kernels/test_fused_speed", "transformer/test_rope", "sampling/test_model"
    root = write_tree(tmp_path, {**GOOD, **{f"tests/unit/{name}.py": "" for name in names}})
    missing = [f"{module} has no test file" for module in ("constants", "sampling/clip_loop", "transformer/model")]
    assert misplaced_tests(root) == [*missing, "sampling/model tests no module"]


def test_checker_finds_print(tmp_path):
    root = write_tree(tmp_path, {"wan_s2v_model/rope.py": '"""print(1)"""\nimport pprint\n\n\ndef f():\n    print("x")\n'})
    assert print_calls(root / "wan_s2v_model/rope.py") == [6]
