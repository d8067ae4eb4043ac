"""How much work a plan is: tokens and floating-point operations of one model call."""

from .config import S2V_14B
from .timeline import Timeline

FLOP_PER_TOKEN = 25.5e9  # of the 14B model outside self attention: linear layers, text and audio attention


def num_tokens(num_latent_frames: int, height: int, width: int, with_motion: bool) -> int:
    """Tokens of one clip; height and width in latents."""
    frame = (height // 2) * (width // 2)
    motion = frame + (height // 4) * (width // 4) + 4 * (height // 8) * (width // 8)
    return (num_latent_frames + 1) * frame + (motion if with_motion else 0)


def flop_per_call(tokens: int) -> float:
    """Floating-point operations of one forward pass of the 14B model."""
    return FLOP_PER_TOKEN * tokens + 4 * tokens**2 * S2V_14B.dim * S2V_14B.num_layers


def describe_plan(timeline: Timeline, height: int, width: int, seconds: float) -> list[str]:
    """Lines for the preview picture: what will be made, and the work of one model call (two per step with cfg)."""
    tokens = num_tokens(timeline.num_latent_frames, height // 8, width // 8, with_motion=True)
    last = timeline.clip_frames(timeline.num_clips - 1)
    lines = [
        f"{width} x {height}   {timeline.num_frames} frames   {seconds:.2f} s   {timeline.num_clips} clips of {timeline.frames_per_clip}",
        f"sync: {timeline.sync_mode}   {tokens:,} tokens   {flop_per_call(tokens) / 1e15:.2f} PFLOP per model call",
    ]
    if timeline.num_clips > 1 and last < timeline.frames_per_clip // 4:
        lines.append(f"the last clip shows only {last} frames: {last / 16:.2f} s less sound saves one clip")
    return lines
