"""The door to ComfyUI, as the golden tests have it."""

from wan_s2v_pack.tests.golden.conftest import bridge

__all__ = ["bridge"]
