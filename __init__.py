"""Wan S2V for ComfyUI: one picture, any audio and a prompt become a talking or singing video."""

from importlib.util import find_spec

from .wan_s2v_model.comfyui_version import require_comfyui

WEB_DIRECTORY = "./web"

if find_spec("folder_paths"):  # of ComfyUI; absent when the unit tests import the pack without it
    require_comfyui()
    from .nodes import comfy_entrypoint

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
