"""Coverage-guided fuzzing with atheris, parser by parser:

    python tests/fuzz/run.py --seconds 60 [--only manifest,wav] [--corpus FOLDER]

atheris is no requirement of the tests: `pip install atheris` (Linux and macOS, Python 3.11 to 3.13). The corpus is kept in the folder.
"""

from __future__ import annotations

import argparse
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def fuzz(name: str, seconds: float, corpus: Path) -> None:
    """Fuzz one parser in this process, which ends with it."""
    import atheris

    runpy.run_path(str(ROOT / "tests" / "conftest.py"))
    with atheris.instrument_imports(include=["wan_s2v_pack"]):
        from wan_s2v_pack.tests.fuzz.targets import TARGETS, try_one
    folder = corpus / name.replace(" ", "_")
    folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(TARGETS[name].seeds):
        (folder / f"seed{number}").write_bytes(seed)
    options = [sys.argv[0], f"-max_total_time={seconds:.0f}", "-timeout=5", "-rss_limit_mb=3000", "-max_len=20000", "-verbosity=0"]
    atheris.Setup([*options, "-print_final_stats=1", str(folder)], lambda data: try_one(name, data))
    atheris.Fuzz()


def main() -> int:
    """Each parser in a process of its own, for its share of the time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="for all parsers together (default: %(default)s)")
    parser.add_argument("--only", default="", help="parsers, separated by commas")
    parser.add_argument("--corpus", type=Path, default=Path("fuzz_corpus"), help="where what was found interesting is kept")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        fuzz(options.one, options.seconds, options.corpus)
        return 0
    runpy.run_path(str(ROOT / "tests" / "conftest.py"))
    from wan_s2v_pack.tests.fuzz.targets import TARGETS

    names = options.only.split(",") if options.only else list(TARGETS)
    failed = []
    for name in names:
        command = [sys.executable, __file__, "--one", name, "--seconds", str(options.seconds / len(names)), "--corpus", str(options.corpus)]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    print(f"{len(names)} parsers; failed: {', '.join(failed) or 'none'}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
