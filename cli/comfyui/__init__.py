"""A running ComfyUI: its client, and a headless server of our own."""
