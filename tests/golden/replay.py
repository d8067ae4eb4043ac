"""Compare the pack's own code with stored results of the reference implementation.

    python tests/golden/replay.py DIR [--only KIND] [--models DIR]

DIR holds one folder per kind of case (forward, audio, preprocess, solver, vae, e2e, live) and the models that the cases name. Live cases
may stand in DIR itself, and their models in another folder.
Prints one row per tensor and exits with 1 if any is off by more than its tolerance or anything in DIR is not understood.
The kinds vae, e2e and live run through ComfyUI: COMFYUI_PATH, else .comfyui in the repository.
"""

import argparse
import importlib
import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ALIAS = "wan_s2v_pack"


def load_pack() -> None:
    """Make the pack importable under the alias that the tests use."""
    spec = importlib.util.spec_from_file_location(ALIAS, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[ALIAS] = module
    spec.loader.exec_module(module)


def main() -> int:
    load_pack()
    kinds = importlib.import_module(f"{ALIAS}.tests.golden.folder").KINDS
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder of stored cases")
    parser.add_argument("--only", metavar="KIND", choices=kinds, help=f"replay one kind: {', '.join(kinds)}")
    parser.add_argument("--models", metavar="DIR", type=Path, help="folder of the tiny models that live cases need; without it DIR itself")
    options = parser.parse_args()
    if not options.folder.is_dir():
        print(f"{options.folder} is not a folder. Give the folder that holds forward, audio, solver and so on.")
        return 1
    models = None if options.models is None else options.models.resolve()
    report = importlib.import_module(f"{ALIAS}.tests.golden.report")
    return 0 if report.replay_folder(options.folder.resolve(), options.only, models) else 1


if __name__ == "__main__":
    sys.exit(main())
