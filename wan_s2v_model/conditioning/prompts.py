"""Prompts that change over time: their text format, the clip in which each begins, and what the text of a clip is.

A clip is sampled as a whole, so prompts change at the borders between clips.
"""

import html
import logging
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..origin import made_of, origin_of
from .timeline import Timeline

logger = logging.getLogger("wan_s2v")
PROMPT_KEY = "wan_s2v_prompt"  # in the options of a CONDITIONING: its ScheduledPrompt
CLOCK = r"(?:(?P<h>\d+):)?(?P<m>\d+):(?P<s>\d\d(?:\.\d+)?)(?=:|\s|$):?"
START = re.compile(CLOCK + r"|(?P<seconds>\d+(?:\.\d+)?)s:|clip +(?P<clip>\d+):", re.IGNORECASE)  # a prompt may begin with 90s or clip 3
EXAMPLE = "Begin it with 0:05, 12.5s: or clip 3: and then the prompt."
EXCERPT = 40  # characters of a prompt in the log
Conditioning = list[Any]  # of [Tensor [1, L, C], options]
MAX_TOKENS = 512  # the end token included
QUOTES = str.maketrans("ʼ‘’‚‛“”„‟", "'''''\"\"\"\"")  # noqa: RUF001
LIGATURES = frozenset("ĲĳŉǄǅǆǇǈǉǊǋǌǱǲǳﬀﬁﬂﬃﬄﬅﬆ")
TERMINAL_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
CONTROLS = dict.fromkeys([*range(9), 0x0B, *range(0x0E, 0x20), 0x7F, *range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD)])


@dataclass(frozen=True)
class ScheduledPrompt:
    """A prompt and when it begins.

    Attributes:
        start_s: seconds of the video, where `start_clip` is None; clips count from 0 here.
        blend_clips: clips in which it is mixed with the one before; 0 switches.
    """

    text: str
    start_s: float = 0.0
    start_clip: int | None = None
    blend_clips: int = 0


def parse_schedule(text: str) -> list[ScheduledPrompt]:
    """Read one prompt per line; empty lines and lines that begin with # are left out.

    A line begins with a time (`0:05`, `1:02:03`, `12.5s:`) or a clip (`clip 3:`, the first is 1), which has its colon; the first prompt may
    do without.

    Raises:
        ValueError: a line has no start or no prompt, or there is no prompt at all.
    """
    prompts: list[ScheduledPrompt] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            prompts.append(_parse_line(line.strip(), number, is_first=not prompts))
    if not prompts:
        raise ValueError(f"The schedule has no prompt. Write one line for each. {EXAMPLE}")
    return prompts


def _parse_line(line: str, number: int, is_first: bool) -> ScheduledPrompt:
    start = START.match(line)
    if start is None:
        if is_first:
            return ScheduledPrompt(line)
        raise ValueError(f"Line {number} of the schedule has no time: got {line[:EXCERPT]!r}. {EXAMPLE}")
    prompt = line[start.end() :].strip()
    if not prompt:
        raise ValueError(f"Line {number} of the schedule has no prompt: got {line!r}. {EXAMPLE}")
    if start["clip"] is not None:
        if int(start["clip"]) == 0:
            raise ValueError(f"Line {number} of the schedule begins in clip 0, but clips count from 1: got {line[:EXCERPT]!r}.")
        return ScheduledPrompt(prompt, start_clip=int(start["clip"]) - 1)
    hours, minutes, seconds = int(start["h"] or 0), int(start["m"] or 0), float(start["s"] or start["seconds"])
    return ScheduledPrompt(prompt, start_s=3600 * hours + 60 * minutes + seconds)


def first_clip(prompt: ScheduledPrompt, timeline: Timeline) -> int:
    """The clip in which a prompt begins: that whose start is nearest to its time, of two equally near ones the earlier."""
    if prompt.start_clip is not None:
        return prompt.start_clip
    frame = prompt.start_s * timeline.fps
    clip = int((frame + timeline.dropped_frames) // timeline.frames_per_clip)
    before, after = frame - timeline.first_frame(clip), timeline.first_frame(clip + 1) - frame
    return clip if before <= after else clip + 1


def place_on_clips(conditioning: Conditioning, timeline: Timeline) -> Conditioning:
    """Give every scheduled prompt its clip, in order; leave out those that no clip shows. The earliest holds from the start.

    Args:
        conditioning: may hold entries without a schedule; they stay as they are and hold in every clip.
    """
    scheduled = dict.fromkeys(options[PROMPT_KEY] for _, options in conditioning if PROMPT_KEY in options)
    if not scheduled:
        return conditioning
    clips = {prompt: first_clip(prompt, timeline) for prompt in scheduled}
    clips[min(clips, key=clips.__getitem__)] = 0
    shown = _shown(clips, timeline.num_clips)
    for clip, prompt in shown.items():
        logger.info("prompt from clip %d on: %s", clip + 1, _excerpt(prompt))
    placed = [
        [tensor, {**options, PROMPT_KEY: replace(prompt, start_clip=clip)}]
        for clip, prompt in shown.items()
        for tensor, options in conditioning
        if options.get(PROMPT_KEY) == prompt
    ]
    return [*(entry for entry in conditioning if PROMPT_KEY not in entry[1]), *placed]


def _shown(clips: dict[ScheduledPrompt, int], num_clips: int) -> dict[int, ScheduledPrompt]:
    """The prompt that begins in each clip, if any; of several the last one that was written."""
    shown = {clip: prompt for prompt, clip in clips.items() if clip < num_clips}
    for prompt, clip in clips.items():
        if shown.get(clip) != prompt:
            reason = f"another one begins in clip {clip + 1}, too" if clip < num_clips else f"the video ends with clip {num_clips}"
            logger.warning("this prompt is never shown, %s: %s", reason, _excerpt(prompt))
    return dict(sorted(shown.items()))


def _excerpt(prompt: ScheduledPrompt) -> str:
    return prompt.text if len(prompt.text) <= EXCERPT else prompt.text[: EXCERPT - 3] + "..."


def prompt_weights(prompts: Sequence[ScheduledPrompt], clip: int) -> list[float]:
    """How much each of some placed prompts, in order, counts in a clip; the weights add up to 1.

    Each fades in over the ones before: with 2 blended clips it has 1/3 in its first one, 2/3 in the next, and all from then on.
    """
    weights: list[float] = []
    for prompt in prompts:
        age = clip - (prompt.start_clip or 0) + 1
        share = 1.0 if not weights else min(1.0, max(0.0, age / (prompt.blend_clips + 1)))
        weights = [*(weight * (1 - share) for weight in weights), share]
    return weights


def conditioning_of_clip(conditioning: Conditioning, clip: int) -> Conditioning:
    """What `place_on_clips` returned -> the entries that hold in a clip: those without a schedule, and one prompt, mixed where two meet."""
    plain = [entry for entry in conditioning if PROMPT_KEY not in entry[1]]
    entries_of: dict[ScheduledPrompt, Conditioning] = {}
    for entry in conditioning[len(plain) :]:
        entries_of.setdefault(entry[1][PROMPT_KEY], []).append(entry)
    weights = prompt_weights(list(entries_of), clip)
    heard = [(weight, entries) for weight, entries in zip(weights, entries_of.values(), strict=True) if weight > 0]
    mixed = (_mix([weight for weight, _ in heard], entries) for entries in zip(*(entries for _, entries in heard), strict=False))
    return [*plain, *mixed]


def begin_of_prompt(conditioning: Conditioning, clip: int) -> int:
    """The clip in which the newest prompt that holds in a clip begins; for what `place_on_clips` returned."""
    starts = [options[PROMPT_KEY].start_clip or 0 for _, options in conditioning if PROMPT_KEY in options]
    return max((start for start in starts if start <= clip), default=0)


def _mix(weights: list[float], entries: Sequence[list]) -> list:
    """The weighted mean of text embeddings, short ones padded with zeros as the model does; all else is that of the newest."""
    options = {key: value for key, value in entries[-1][1].items() if key != PROMPT_KEY}
    if len(entries) == 1:
        return [entries[0][0], options]
    length = max(tensor.shape[1] for tensor, _ in entries)
    padded: list[Tensor] = [F.pad(tensor, (0, 0, 0, length - tensor.shape[1])) for tensor, _ in entries]
    total: Tensor = sum(weight * tensor for weight, tensor in zip(weights, padded, strict=True))  # type: ignore[assignment]
    parts = [(round(weight, 6), origin_of(tensor)) for weight, (tensor, _) in zip(weights, entries, strict=True)]
    return [made_of(total, str(parts)) if all(origin for _, origin in parts) else total, options]


def require_finite(*prompts: Conditioning) -> None:
    """Raise ValueError if a prompt holds NaN or infinite values."""
    if not all(torch.isfinite(tensor).all() for prompt in prompts for tensor, _ in prompt):
        raise ValueError("The encoded prompt contains NaN or infinite values. Load the text encoder again or use another file.")


def require_width(text_dim: int, **prompts: Conditioning) -> None:
    """Raise ValueError if the text encoder of a prompt is of another size than that of the MODEL, which has `text_dim` values per token."""
    for name, prompt in prompts.items():
        for tensor, _ in prompt:
            if tensor.shape[-1] != text_dim:
                raise ValueError(
                    f"The {name} prompt has {tensor.shape[-1]} values per token, and this MODEL needs {text_dim}: "
                    "it comes from another text encoder. Use Load Wan S2V Text Encoder with umt5_xxl_fp16.safetensors."
                )


def schedule_prompts(encode: Callable[[str], Conditioning], prompts: Sequence[ScheduledPrompt], blend_clips: int) -> Conditioning:
    """Encode prompts with their times, for `place_on_clips`; one alone holds in every clip and needs none.

    Args:
        blend_clips: clips in which each is mixed with the one before; 0 switches.
    """
    if len(prompts) == 1:
        return encode(prompts[0].text)
    scheduled = [replace(prompt, blend_clips=blend_clips) for prompt in prompts]
    return [[tensor, {**options, PROMPT_KEY: prompt}] for prompt in scheduled for tensor, options in encode(prompt.text)]


def clean_prompt(text: str) -> str:
    """Undo HTML escapes (twice), fold full-width characters, ligatures and curly quotes, drop control characters, collapse white space.

    So does the reference, which also repairs wrongly decoded text (mojibake); this does not.
    """
    text = TERMINAL_ESCAPE.sub("", html.unescape(html.unescape(text)))
    folded = (unicodedata.normalize("NFKC", c) if c in LIGATURES or unicodedata.east_asian_width(c) in "FH" else c for c in text)
    text = "".join(folded).translate(QUOTES | CONTROLS)
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip()


def encode_prompt(clip: Any, prompt: str) -> list:
    """Encode a prompt as CONDITIONING: cleaned, cut to 512 tokens with the end token, without (word:1.2) weights."""
    tokens = clip.tokenize(clean_prompt(prompt), disable_weights=True)
    for batches in tokens.values():
        joined = [token for batch in batches for token in batch]
        if len(joined) > MAX_TOKENS:
            logger.warning("the prompt has %d tokens; only the first %d are used", len(joined), MAX_TOKENS)
            batches[:] = [[*joined[: MAX_TOKENS - 1], joined[-1]]]
    return clip.encode_from_tokens_scheduled(tokens)
