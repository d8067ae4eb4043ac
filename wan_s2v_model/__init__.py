"""Wan2.2-S2V-14B inference: everything that is not a ComfyUI node."""
