"""The layering of the pack, read from its source: nodes -> pipeline -> solvers, sound, storage -> transformer -> blocks -> constants."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "wan_s2v_model"
BRIDGE = "comfy_bridge"
LAYERS = (  # lowest first; a module imports from its own layer or a lower one
    {"constants", "config", "compatibility"},
    {
        "casting",
        "self_test",
        "kernels",
        "audio_kernels",
        "fused",
        "quantised",
        "linears",
        "rope",
        "residual",
        "attention",
        "layers",
        "first_attention",
        "audio_injector",
        "patches",
        "motion_packer",
        "vae_tiling",
        "identify",
        "lora_adapters",
        "quantised_file",
        "atomic_files",
        "run_changes",
        "background",
        "file_lock",
        "file_format",
        "completeness",
        "weights_file",
        "drawing",
        "stable_text",
    },
    {"transformer", "checkpoint", "lora", "wav2vec2"},
    {"audio_preparation", "loudness", "stereo"}
    | {"sampler", "schedule", "conditioning", "audio_features", "feature_file", "audio_encoder", "text_encoder", "timeline", "estimate"}
    | {"resources", "run_store", "video_writer", "waveform_preview", "progress"}
    | {"sync_tracks", "sync_offset", "sync_report"}
    | {"vae_memory", "pose", "video_reader", "frame_rate"}
    | {"guidance", "prompt_schedule"}
    | {"anchors", "drift", "drift_plot"}
    | {"speech", "speech_worker"},
    {"pipeline"},
    {"clips", "fingerprint", "clip_loop", "live_video", "tail"},
    {BRIDGE},
)
RANKS = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}
COMFY_ROOT_MODULES = {"folder_paths", "nodes", "execution", "server", "latent_preview", "node_helpers", "app"}
ALLOWED_IN_NODES = {"comfy_api", "folder_paths", "torch"} | sys.stdlib_module_names
VAGUE_NAMES = {"utils", "util", "helpers", "common", "misc"}
SIZE_LIMITS = {"transformer.py": 700}  # lines; 400 for all others
SOURCE_FOLDERS = (PACKAGE, "nodes", "tts_worker", "cli", "scripts", "bench", "tests")

Module = tuple[str, ...]  # path below the root, without suffix


def sources(root, *folders):
    return sorted(path for folder in folders for path in (root / folder).rglob("*.py"))


def module_of(root, path) -> Module:
    return path.relative_to(root).with_suffix("").parts


def imports_of(root, path):
    """Every import of a file, in functions too: (module of the pack or None, dotted name)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((None, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield None, node.module
        elif isinstance(node, ast.ImportFrom):
            yield from relative_imports(root, path, node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in ("__import__", "import_module"):
            yield None, f"{ast.unparse(node.func)}()"


def relative_imports(root, path, node):
    package = module_of(root, path)[: -node.level]
    base = (*package, *(node.module.split(".") if node.module else ()))
    for alias in node.names:
        candidate = (*base, alias.name)
        is_module = (root.joinpath(*candidate).with_suffix(".py")).is_file() or root.joinpath(*candidate).is_dir()
        target = candidate if is_module else base
        yield target, "." * node.level + (node.module or alias.name)


def rank_of(module: Module) -> int | None:
    if module[0] == "nodes":
        return len(LAYERS)
    return RANKS.get(module[1]) if len(module) > 1 else None


def layering_problems(root) -> list[str]:
    problems = []
    for path in sources(root, PACKAGE, "nodes"):
        module = module_of(root, path)
        rank = -1 if module == (PACKAGE, "__init__") else rank_of(module)
        if rank is None:
            problems.append(f"{path.name}: give the new module a layer in this test")
            continue
        for target, name in imports_of(root, path):
            problem = absolute_problem(module, name) if target is None else relative_problem(rank, target)
            if problem:
                problems.append(f"{'/'.join(module)} imports {name}: {problem}")
    return problems


def absolute_problem(module: Module, name: str) -> str | None:
    top = name.split(".")[0]
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


def relative_problem(rank: int, target: Module) -> str | None:
    target_rank = rank_of(target) if target and target[0] in (PACKAGE, "nodes") else None
    if target_rank is None:
        return "not a module of the pack's layers"
    return "points to a higher layer" if target_rank > rank else None


def import_cycle(root) -> list[str]:
    """The modules of one import cycle, empty if there is none."""
    files = {module_of(root, path): path for path in sources(root, PACKAGE, "nodes")}
    graph = {module: {target for target, _ in imports_of(root, path) if target in files} for module, path in files.items()}
    finished: set[Module] = set()

    def visit(module: Module, trail: list[Module]) -> list[Module]:
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


def write_tree(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


# The pack


def test_dependencies_point_one_way():
    assert layering_problems(ROOT) == []


def test_every_layer_exists():
    present = {path.stem for path in (ROOT / PACKAGE).iterdir()}
    assert set(RANKS) - present == set()


def test_no_import_cycle():
    assert import_cycle(ROOT) == []


def test_no_vague_module_names():
    assert [path for path in sources(ROOT, *SOURCE_FOLDERS) if path.stem in VAGUE_NAMES] == []


def test_pack_never_prints():
    found = {path.name: print_calls(path) for path in [ROOT / "__init__.py", *sources(ROOT, PACKAGE, "nodes")]}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_files_stay_readable():
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sources(ROOT, *SOURCE_FOLDERS)}
    assert {path.name: size for path, size in sizes.items() if size > SIZE_LIMITS.get(path.name, 400)} == {}


# The checker

GOOD = {
    "nodes/__init__.py": "from comfy_api.latest import io\nfrom .text import Node\n",
    "nodes/text.py": "import folder_paths\nimport torch\nimport json\nfrom ..wan_s2v_model import comfy_bridge\nfrom .sockets import X\n",
    "nodes/sockets.py": "X = 1\n",
    "wan_s2v_model/__init__.py": "",
    "wan_s2v_model/constants.py": "import math\n",
    "wan_s2v_model/rope.py": "import numpy as np\nfrom .constants import A\n",
    "wan_s2v_model/transformer.py": "from .rope import B\nfrom . import constants\n",
    "wan_s2v_model/pipeline.py": "from .transformer import C\n",
    "wan_s2v_model/comfy_bridge.py": "import comfy.sd\nimport latent_preview\nfrom .pipeline import D\n",
}


def test_checker_accepts_a_layered_tree(tmp_path):
    root = write_tree(tmp_path, GOOD)
    assert layering_problems(root) == []
    assert import_cycle(root) == []


@pytest.mark.parametrize(
    ("file", "line", "problem"),
    [
        ("wan_s2v_model/rope.py", "from .pipeline import run", "rope imports .pipeline: points to a higher layer"),
        ("wan_s2v_model/rope.py", "from . import transformer", "rope imports .transformer: points to a higher layer"),
        ("wan_s2v_model/pipeline.py", "from .comfy_bridge import x", "points to a higher layer"),
        ("wan_s2v_model/pipeline.py", "from ..nodes.text import Node", "points to a higher layer"),
        ("wan_s2v_model/comfy_bridge.py", "from .. import nodes", "points to a higher layer"),
        ("wan_s2v_model/pipeline.py", "import comfy.utils", "only comfy_bridge reaches ComfyUI"),
        ("wan_s2v_model/pipeline.py", "def f():\n    from comfy_api.latest import io", "only comfy_bridge reaches ComfyUI"),
        ("wan_s2v_model/transformer.py", "import folder_paths", "only comfy_bridge reaches ComfyUI"),
        ("wan_s2v_model/transformer.py", "import nodes", "only comfy_bridge reaches ComfyUI"),
        ("wan_s2v_model/pipeline.py", "importlib.import_module('comfy.sd')", "imports are written as statements"),
        ("wan_s2v_model/pipeline.py", "__import__('comfy')", "imports are written as statements"),
        ("wan_s2v_model/pipeline.py", "from wan_s2v_model.transformer.rope import B", "inside the pack imports are relative"),
        ("wan_s2v_model/pipeline.py", "from ...elsewhere import B", "not a module of the pack's layers"),
        ("wan_s2v_model/__init__.py", "from .pipeline import run", "points to a higher layer"),
        ("wan_s2v_model/extra.py", "", "extra.py: give the new module a layer"),
        ("nodes/text.py", "import numpy as np", "nodes import only"),
        ("nodes/text.py", "from comfy.utils import x", "nodes import only"),
        ("nodes/text.py", "def f():\n    import nodes", "nodes import only"),
    ],
)
def test_checker_finds_each_wrong_import(tmp_path, file, line, problem):
    root = write_tree(tmp_path, {**GOOD, file: GOOD.get(file, "") + line + "\n"})
    problems = layering_problems(root)
    assert len(problems) == 1
    assert problem in problems[0]


def test_checker_finds_a_cycle_inside_a_layer(tmp_path):
    files = {"wan_s2v_model/attention.py": "from .rope import B\n", "wan_s2v_model/rope.py": "def f():\n    from .attention import A\n"}
    root = write_tree(tmp_path, {**GOOD, **files})
    assert layering_problems(root) == []
    cycle = import_cycle(root)
    assert cycle[0] == cycle[-1]
    assert set(cycle) == {"wan_s2v_model/attention", "wan_s2v_model/rope"}


def test_checker_finds_print(tmp_path):
    root = write_tree(tmp_path, {"wan_s2v_model/rope.py": '"""print(1)"""\nimport pprint\n\n\ndef f():\n    print("x")\n'})
    assert print_calls(root / "wan_s2v_model/rope.py") == [6]
