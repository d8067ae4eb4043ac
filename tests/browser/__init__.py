"""Tests that look at the nodes on ComfyUI's canvas."""
