"""A ComfyUI to talk to: its HTTP and websocket API, and a headless server of our own. Change here what goes over the wire."""
