"""Runs the node of `calls` on the server that was started with it."""

from __future__ import annotations

import json
from pathlib import Path

from ..comfyui.client import ComfyClient
from ..comfyui.errors import ComfyError
from ..models.folders import ModelFolders
from .agreement import Measured
from .files import find_file

CALLS = Path(__file__).with_name("calls")
NODE, NODE_ID = "WanS2VCompare", "1"


def call_models(client: ComfyClient, folders: ModelFolders, name: str) -> Measured:
    """What `calls.compare` measures on a file of the model loader.

    Raises:
        ComfyError: with what went wrong in the node.
    """
    path = find_file(folders, "diffusion_models", name)
    outputs = client.run({NODE_ID: {"class_type": NODE, "inputs": {"path": str(path)}}})
    try:
        return json.loads(outputs[NODE_ID]["measured"][0])
    except (LookupError, TypeError) as error:
        raise ComfyError(f"The comparison ended without a result; ComfyUI's answer: {str(outputs)[:500]}") from error
