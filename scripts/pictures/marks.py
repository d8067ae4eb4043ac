"""A picture carries a mark of what it shows as a comment in its file, so that it is known when it has become older than that."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

KEY = "comment"  # of JPEG, and of a text in PNG


def mark(*shown: Any) -> str:
    """A short hash of what can be written as JSON."""
    return hashlib.sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:16]


def save_marked(picture: Image.Image, path: Path, text: str, **options: Any) -> None:
    """Save a PNG or a JPEG with its mark."""
    if path.suffix == ".png":
        info = PngInfo()
        info.add_text(KEY, text)
        picture.save(path, pnginfo=info, **options)
    else:
        picture.save(path, comment=text, **options)


def mark_of(path: Path) -> str:
    """The mark of a stored picture; empty where it has none."""
    with Image.open(path) as picture:
        comment = picture.info.get(KEY, "")
    return comment.decode("ascii", "replace") if isinstance(comment, bytes) else comment
