"""Wan S2V for ComfyUI: one picture, any audio and a prompt become a talking or singing video."""

from importlib.util import find_spec

WEB_DIRECTORY = "./web"

if find_spec("comfy_api"):  # absent when the unit tests import the pack without ComfyUI
    from .nodes import comfy_entrypoint

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
