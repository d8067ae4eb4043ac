"""The address of a server and the login for it, as a person writes them. No error text here repeats them: they may hold a password."""

from __future__ import annotations

import argparse
import base64
import itertools
import re
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

try:
    from ...wan_s2v_model.untrusted import read_plain
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.untrusted import read_plain

EXAMPLE = "http://127.0.0.1:8188"
MOST_BYTES = 2**20  # of a file of headers
HEADER = re.compile(r"([\w!#$%&'*+.^`|~-]+)\s*:\s*([\x20-\x7e]*)", re.ASCII)

Headers = tuple[tuple[str, str], ...]


def add_options(group: argparse._ActionsContainer, without: str, *other_names: str) -> None:
    """Add --server and the login for it.

    Args:
        without: what happens if no server is named. other_names: of --server.
    """
    server = f"a running ComfyUI, e.g. http://127.0.0.1:8188 (default: {without})"
    group.add_argument(*other_names, "--server", dest="server", type=address, metavar="URL", help=server)
    group.add_argument("--auth", type=login, metavar="USER:PASSWORD", default=(), help="login of the proxy in front of --server")
    group.add_argument("--header", action="append", type=headers, metavar="NAME: VALUE", default=[], dest="headers",
                       help="sent to --server with every request, such as a token; @FILE: one header a line; can be repeated")  # fmt: skip


def login_of(options: argparse.Namespace) -> Headers:
    """The headers that the options ask for."""
    return (*options.auth, *itertools.chain(*options.headers))


def address(text: str) -> str:
    """The type of an option: HOST:PORT or a whole URL; gets its scheme where it has none."""
    text = text if "://" in text else f"http://{text}"
    if _parts(text) is None:
        advice = "A token goes into --header, user and password into --auth."
        raise argparse.ArgumentTypeError(f"must be an address such as {EXAMPLE}, with nothing behind the path. {advice}")
    return text


def login(text: str) -> Headers:
    """The type of an option: USER:PASSWORD as a header."""
    user, colon, _ = text.partition(":")
    if not user or not colon:
        raise argparse.ArgumentTypeError("must be USER:PASSWORD")
    return (("Authorization", f"Basic {base64.b64encode(text.encode()).decode()}"),)


def headers(text: str) -> Headers:
    """The type of an option: `NAME: VALUE`, or @FILE with one such header a line."""
    try:
        lines = _lines_of(Path(text[1:])) if text.startswith("@") else [text]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise argparse.ArgumentTypeError(f"the file {text[1:]} cannot be read ({reason})") from error
    found = [HEADER.fullmatch(line.strip()) for line in lines if line.strip()]
    if not all(found):
        raise argparse.ArgumentTypeError("must be 'NAME: VALUE' in plain ASCII, or @FILE with one such header a line")
    return tuple((header[1], header[2]) for header in found if header)


def _lines_of(file: Path) -> list[str]:
    return read_plain(file, MOST_BYTES, through_links=True).decode("utf-8").splitlines()


def without_login(url: str) -> tuple[str, Headers]:
    """An address as it may be printed, and the login that stood in it.

    Raises:
        ValueError: if it is no address of a server.
    """
    parts = _parts(url)
    if parts is None:
        raise ValueError(f"A server has an address such as {EXAMPLE}, with nothing behind the path.")
    host = parts.netloc.rpartition("@")[2]
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return f"{parts.scheme}://{host}{parts.path}".rstrip("/"), login(f"{user}:{password}") if user else ()


def _parts(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        return None
    return parts if good and not parts.query and not parts.fragment and "@" not in parts.path else None
