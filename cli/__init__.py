"""Command-line side of the pack: a headless ComfyUI, a client for its queue, and a workflow converter."""
