"""`predict`: a picture and a sound in, a video file out, through a ComfyUI that runs already or is started for it."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..comfyui.errors import ComfyError, NoAnswer, PromptInterrupted, PromptRefused
from ..models.folders import FolderError
from .graph import sampler_of
from .object_info import PackMissing, PromptError
from .options import STANDARD_OUTPUT, add_options, request_from

if TYPE_CHECKING:
    from ..comfyui.client import ComfyClient
    from .job import Made

DONE, FAILED, NO_SERVER, REFUSED, CANCELLED, INTERRUPTED = 0, 1, 3, 4, 5, 130  # 2 is argparse's
STATUS = {
    DONE: "done",
    FAILED: "failed",
    NO_SERVER: "no server",
    REFUSED: "refused",
    CANCELLED: "cancelled",
    INTERRUPTED: "interrupted",
}
PLANNED = "planned"  # the status of a dry run
DESCRIPTION = """Make a talking or singing video of one picture and any sound.

The graph is the quick start of this pack. Without --server a ComfyUI is started for it on loopback, with this pack alone, and
stopped afterwards. Ctrl-C cancels the job on the server. The server keeps a copy of the video in its output folder."""
EXIT_CODES = """exit codes:
  0    the video is there, or can be made (--dry-run)
  1    a node failed while it was made, or the video could not be written; the message says which and why
  2    an option is wrong
  3    no ComfyUI: not found, not started, ended, does not answer, is behind a login, or has no such pack
  4    refused before anything ran: a model file is missing, or an input does not fit
  5    somebody else cancelled the job on the server
  130  interrupted with Ctrl-C or a signal; the job was cancelled"""


def add_parser(commands: argparse._SubParsersAction) -> None:
    """Add the command and its options."""
    raw = argparse.RawDescriptionHelpFormatter
    text = "make a video from a picture and a sound"
    parser = commands.add_parser("predict", help=text, description=DESCRIPTION, epilog=EXIT_CODES, formatter_class=raw)
    add_options(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Make the video, say how it went, and return the exit status."""
    with interrupted_by_signals():
        outcome = attempt(options)
    code, lines = outcome["exit_code"], outcome.pop("lines", None)
    if code != DONE:
        say(f"predict {STATUS[code]}: {outcome['error']}")
    if options.json:
        print(json.dumps(outcome, indent=2))
    elif code == DONE and options.output != STANDARD_OUTPUT:
        print("\n".join(lines) if lines else f"video made in {outcome['seconds']:.1f} s: {outcome['video']}")
    return code


def attempt(options: argparse.Namespace) -> dict[str, Any]:
    """Make the video and return what `--json` prints."""
    try:
        from .connection import ServerError, connect
        from .job import require_writable

        if options.dry_run:
            from . import dry_run  # noqa: F401  # needs PyTorch, and says so now
    except ImportError as error:
        return failed(NO_SERVER, f"{error}. Use the Python that runs ComfyUI, which has it.")
    try:
        if options.output != STANDARD_OUTPUT:
            require_writable(options.output)
        with connect(options, say) as client:
            return planned(client, options) if options.dry_run else made(client, options)
    except KeyboardInterrupt:
        kept = f" Finished clips of {options.run_name} are kept; the same command continues there." if options.run_name else ""
        return failed(INTERRUPTED, f"The job was cancelled.{kept}")
    except PromptInterrupted as error:
        return failed(CANCELLED, str(error), error)
    except (NoAnswer, PackMissing, FolderError, ServerError) as error:
        return failed(NO_SERVER, str(error))
    except (PromptRefused, PromptError) as error:
        return failed(REFUSED, str(error), error)
    except ComfyError as error:
        return failed(FAILED, str(error), error)
    except OSError as error:
        return failed(FAILED, f"{error.filename or options.output} cannot be used: {error.strerror or error}.")


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Let the signals that end a process do as Ctrl-C does: the job is cancelled and a started server stopped.

    Those that are ignored already, as nohup does with SIGHUP, stay ignored.
    """
    ending = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    former = {number: signal.getsignal(number) for number in ending if signal.getsignal(number) != signal.SIG_IGN}
    for number in former:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def fetch(client: ComfyClient, made: Made, output: Path) -> None:
    """Copy the video to this machine; an older file is replaced once the new one is complete."""
    try:
        client.download(made.file, output)
    except OSError as error:
        place = f"the server's {made.file.type} folder as {made.file.name}"
        raise ComfyError(f"{output} cannot be written: {error.strerror or error}. The video lies in {place}.") from error


def made(client: ComfyClient, options: argparse.Namespace) -> dict[str, Any]:
    """Make the video and put it where it is wanted; the outcome."""
    from .job import make_video

    if options.output == STANDARD_OUTPUT:
        return streamed(client, options)
    video = make_video(client, request_from(options), say)
    fetch(client, video, options.output)
    return succeeded(video, options.output, client.url)


def streamed(client: ComfyClient, options: argparse.Namespace) -> dict[str, Any]:
    """Make a video that goes to the standard output while it is made; the outcome."""
    from .job import make_video
    from .live import Stream

    request = request_from(options)
    with Stream(client) as stream:
        made = make_video(client, request, say, stream.on_shown)
    if stream.num_bytes == 0:  # all clips were there already
        stream.send(made.file)
    say(f"video made in {made.seconds:.1f} s: {stream.num_bytes} bytes")
    return {"status": STATUS[DONE], "exit_code": DONE, "video": str(STANDARD_OUTPUT), "seconds": round(made.seconds, 3)}


def succeeded(made: Made, video: Path, server: str) -> dict[str, Any]:
    return {
        "status": STATUS[DONE],
        "exit_code": DONE,
        "video": str(video.resolve()),
        "bytes": video.stat().st_size,
        "seconds": round(made.seconds, 3),
        "seed": sampler_of(made.prompt)["seed"],
        "prompt_id": made.prompt_id,
        "server": server,
        "server_file": made.file.name,
    }


def planned(client: ComfyClient, options: argparse.Namespace) -> dict[str, Any]:
    """The outcome of a dry run."""
    from .dry_run import look_ahead

    outlook = look_ahead(client, request_from(options), is_here=not options.server)
    lines = [*outlook.lines(), "Nothing was uploaded, and nothing ran."]
    return {"status": PLANNED, "exit_code": DONE, **outlook.as_json(), "server": client.url, "lines": lines}


def failed(code: int, message: str, error: Exception | None = None) -> dict[str, Any]:
    """The outcome without a video, with the node where the server names one."""
    outcome: dict[str, Any] = {"status": STATUS[code], "exit_code": code, "error": message}
    if isinstance(error, ComfyError) and error.node_type:
        outcome |= {"node_id": error.node_id, "node_type": error.node_type, "error_type": error.kind}
    return outcome


def say(text: str) -> None:
    """Tell the person, not the program that reads the output."""
    print(text, file=sys.stderr, flush=True)
