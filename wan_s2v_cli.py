"""The command line of the pack for any Python, from any folder: `python wan_s2v_cli.py COMMAND`.

The Python of the portable ComfyUI looks neither into the working directory nor beside the program, so the pack's folder is put on its path.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    from cli.__main__ import main

    sys.exit(main())
