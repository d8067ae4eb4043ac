"""A ComfyUI to talk to: the one that was named, or one that is started on loopback and stopped again."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..comfyui.address import login_of
from ..comfyui.client import ComfyClient, NoAnswer
from ..comfyui.server import (
    PACK_NAME,
    ComfyServer,
    ServerError,
    has_accelerator,
    link_pack,
    prepare_base_directory,
    write_model_paths,
)
from ..models.folders import ROOT, FolderError, find_base, find_comfyui, find_model_folders
from .object_info import PackMissing, PromptError

LARGEST_UPLOAD_MB = 100_000
PATIENCE_S = 300.0  # proxies and networks fail for a while; the job goes on without us


@contextmanager
def connect(options: argparse.Namespace, say: Callable[[str], None], packs: Sequence[Path] = ()) -> Iterator[ComfyClient]:
    """Give a client of the server that the options name, or of one that lives as long as this block.

    Args:
        packs: folders of further nodes for a server that is started.
    Raises:
        PromptError: if there is a login without a server.
        FolderError, ServerError: if there is no ComfyUI to start, or it does not come up or ends while it is needed.
    """
    if options.server:
        yield ComfyClient(options.server, login_of(options), PATIENCE_S)
        return
    if options.auth or options.headers:
        raise PromptError("--auth and --header are for --server; a ComfyUI that is started here needs none.")
    comfyui, models, output = find_places(options)
    # On the disk of the output: the clips of a run without a name are kept here while it lasts.
    with tempfile.TemporaryDirectory(prefix=".wan_s2v_predict_", dir=output, ignore_cleanup_errors=True) as folder:
        server = make_server(comfyui, Path(folder), models, output, packs)
        say(f"starting ComfyUI in {comfyui} ...")
        with server:
            try:
                yield ComfyClient(server.url)
            except PackMissing as error:
                raise ServerError(f"{error}\nThe last lines of the log:\n{server.log_tail()}") from error
            except NoAnswer as error:
                raise ServerError(f"ComfyUI ended before the video was made. The last lines of its log:\n{server.log_tail()}") from error


def find_places(options: argparse.Namespace) -> tuple[Path, Path, Path]:
    """The program of ComfyUI, its models folder, and the folder for runs and videos.

    Raises:
        FolderError: if there is no ComfyUI to start.
    """
    comfyui = find_comfyui(options.comfyui)
    if comfyui is None:
        raise FolderError(
            "No ComfyUI was found that could be started. Name a running one with --server (the Desktop app: "
            "--server http://127.0.0.1:8000), or the folder of its main.py with --comfyui."
        )
    base = find_base(options.comfyui) or comfyui
    models = find_model_folders(base, options.models_dir).models
    output = (options.output_dir or base / "output").resolve()
    output.mkdir(parents=True, exist_ok=True)
    return comfyui, models, output


def make_server(comfyui: Path, folder: Path, models: Path, output: Path, packs: Sequence[Path]) -> ComfyServer:
    """A server with this pack and those alone, that leaves nothing behind but what it is asked to write."""
    base = prepare_base_directory(folder, ROOT)
    for pack in packs:
        link_pack(pack, base / "custom_nodes" / f"{PACK_NAME}_{pack.name}")
    arguments = ["--extra-model-paths-config", str(write_model_paths(base, models)), "--output-directory", str(output)]
    arguments += ["--max-upload-size", str(LARGEST_UPLOAD_MB), "--disable-api-nodes"]
    return ComfyServer(comfyui, base, cpu=not has_accelerator(), extra_args=arguments, own_session=True)
