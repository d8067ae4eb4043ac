"""Tests against a real ComfyUI server on the CPU, with the tiny model set."""
