"""Pictures that ComfyUI's Load Image does not read, though Pillow does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from .object_info import PromptError

try:
    from ...wan_s2v_model.untrusted import open_plain
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.untrusted import open_plain

READ_BY_ALL = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP")  # MPO: what many phones call a JPEG


def readable_picture(picture: Path, folder: Path, say: Callable[[str], None]) -> Path:
    """The picture itself where every Load Image reads it, else a PNG of it in `folder`, as it is displayed.

    Raises:
        PromptError: it is no picture that Pillow reads.
    """
    with opened_picture(picture) as image:
        if image.format in READ_BY_ALL:
            return picture
        copy, kind = folder / f"{picture.stem}.png", image.format
        shown = ImageOps.exif_transpose(image)
        shown.convert("RGBA" if shown.has_transparency_data else "RGB").save(copy)
    say(f"{picture.name}: not every ComfyUI reads {kind}, so a PNG of it is uploaded")
    return copy


@contextmanager
def opened_picture(picture: Path) -> Iterator[Image.Image]:
    """A picture; PromptError where it, or what is done with it, shows that it cannot be read."""
    try:
        with open_plain(picture, through_links=True) as file, Image.open(file) as image:
            yield image
    except UnidentifiedImageError as error:  # whose own words name an object in memory
        raise PromptError(f"{picture.name} is no picture that can be read. Convert it to PNG or JPEG.") from error
    except (OSError, Image.DecompressionBombError) as error:
        raise PromptError(f"{picture.name} is no picture that can be read ({error}). Convert it to PNG or JPEG.") from error
