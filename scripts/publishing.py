"""Make pyproject.toml ready for the registry: addresses in place of paths, which the registry cannot read.

    python scripts/publishing.py https://github.com/OWNER/REPOSITORY COMMIT [pyproject.toml]

The repository does not name its own address; the publishing workflow knows it. Run it on a copy that is not committed.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("repository", help="address of the repository")
    parser.add_argument("commit", help="commit whose pictures are shown")
    parser.add_argument("project", nargs="?", type=Path, default=ROOT / "pyproject.toml", help="the file to change")
    options = parser.parse_args(arguments)
    text = with_addresses(options.project.read_text(encoding="utf-8"), options.repository.rstrip("/"), options.commit)
    options.project.write_text(text, encoding="utf-8")
    return 0


def with_addresses(project: str, repository: str, commit: str) -> str:
    """The text of pyproject.toml with addresses of icon, banner and repository.

    Raises:
        ValueError: one of its lines is not there, or the repository is there already.
    """
    for key in ("Icon", "Banner"):
        project, count = re.subn(rf'^{key} = "([^":]+)".*$', rf'{key} = "{repository}/raw/{commit}/\1"', project, flags=re.MULTILINE)
        if count != 1:
            raise ValueError(f"pyproject.toml has {count} lines `{key} = <path>`; one is needed.")
    if "[project.urls]" in project:
        raise ValueError("pyproject.toml has a section project.urls already.")
    urls = f'[project.urls]\nRepository = "{repository}"\nDocumentation = "{repository}#readme"\nIssues = "{repository}/issues"\n\n'
    return project.replace("[tool.comfy]", f"{urls}[tool.comfy]", 1)


if __name__ == "__main__":
    sys.exit(main())
