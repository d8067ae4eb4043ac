"""What can go wrong with a prompt on a ComfyUI server. Imports nothing that a bare Python lacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class ComfyError(RuntimeError):
    """The server refused or failed a prompt.

    Attributes:
        node_id, node_type: the node that failed, where known.
        kind: ComfyUI's error type or the Python exception's class name.
        details: the server's answer.
    """

    def __init__(self, message: str, *, node_id: str = "", node_type: str = "", kind: str = "", details: Any = None) -> None:
        super().__init__(message)
        self.node_id = node_id
        self.node_type = node_type
        self.kind = kind
        self.details = details


class NoAnswer(ComfyError):
    """Nothing answers at the server's address."""


class Unavailable(NoAnswer):
    """Nothing answers just now: it may after a while."""


class CutOff(ComfyError):
    """A file did not come whole."""


class PromptRefused(ComfyError):
    """The prompt did not pass validation; nothing ran."""


class PromptFailed(ComfyError):
    """A node raised while the prompt ran."""


class PromptInterrupted(ComfyError):
    """The prompt was cancelled."""


def failure(data: Mapping[str, Any]) -> PromptFailed:
    """The error for ComfyUI's `execution_error`."""
    node_id, node_type = str(data["node_id"]), data["node_type"]
    message = f"{node_type} (node {node_id}): {data['exception_message'].strip()}"
    return PromptFailed(message, node_id=node_id, node_type=node_type, kind=data["exception_type"], details=data)


def refusal(path: str, status: int, answer: Any) -> ComfyError:
    """The error for an answer of ComfyUI, None if it is no JSON: one line per broken input, or its general message."""
    if not isinstance(answer, Mapping) or not {"node_errors", "error"} & set(answer):
        return ComfyError(f"ComfyUI answered {path} with status {status}. Look at the server's log.")
    broken = [(key, node, error) for key, node in answer.get("node_errors", {}).items() for error in node["errors"]]
    if not broken:
        error = answer.get("error", {})
        return PromptRefused(f"{error.get('message', '')}: {error.get('details', '')}", kind=error.get("type", ""), details=answer)
    text = "\n".join(f"{node['class_type']} (node {key}): {error['message']}: {error['details']}" for key, node, error in broken)
    key, node, error = broken[0]
    return PromptRefused(text, node_id=str(key), node_type=node["class_type"], kind=error["type"], details=answer)
