"""The pack as users install it: the registry's archive, and ComfyUI-Manager with git."""
