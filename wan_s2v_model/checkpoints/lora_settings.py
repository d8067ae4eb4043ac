"""What a trainer notes about a LoRA beside its tensors: alpha and rank, in the file's metadata or in adapter_config.json in its folder."""

import functools
import logging
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..untrusted import MOST_JSON_BYTES, read_json, read_plain, shown
from .file_format import CheckpointError

Value = TypeVar("Value")
logger = logging.getLogger("wan_s2v")
METADATA_KEY = "lora_adapter_metadata"  # of diffusers and SimpleTuner: JSON, every key with a part of the pipeline in front
CONFIG_FILE = "adapter_config.json"  # of PEFT
PEFT_FILE = "adapter_model"  # begins the name of the weights beside it
WEIGHTS = (".safetensors", ".sft", ".bin", ".pt", ".pth", ".ckpt")
PARTS = ("transformer", "")  # of the pipeline, the best first; "" is a file without parts
REPEATS, MOST_REPEATS = re.compile(r"[*+{]"), 2  # in a pattern, which is matched with every module
HARD_PATTERN = re.compile(r"\)[*+{]|\\[1-9]|\(\?P=|.{300}")  # a repeated group takes time without end
OPTION = re.compile(r"(?<!\()\?")
LONGEST_NAME = 120  # characters of a module's name
MOST_WAYS = 50_000  # in which the patterns of a file may be tried with one name
OTHER_PARTS = re.compile(r"text_encoder|image_encoder|vae")


@dataclass(frozen=True)
class LoraSettings:
    """Alpha and rank as a trainer notes them.

    Attributes:
        source: where they stand, in words.
        rank: of the modules that no pattern names; None if it is not noted.
        alphas, ranks: regular expression for the end of a module's name -> its own value.
        by_root: the trainer divides alpha by the root of the rank (rsLoRA).
    """

    source: str
    alpha: float | None
    rank: int | None = None
    alphas: Mapping[str, float] = field(default_factory=dict)
    ranks: Mapping[str, int] = field(default_factory=dict)
    by_root: bool = False

    def fits(self, names: Iterable[str], rank: int) -> bool:
        """Whether a module with this rank can be of the LoRA that these settings speak of; names: what it is called."""
        return _matching(self.ranks, names, self.rank) in (None, rank)

    def alpha_of(self, names: Iterable[str], rank: int) -> float | None:
        """The alpha for ComfyUI, which multiplies a change with alpha / rank; None if it is not noted."""
        alpha = _matching(self.alphas, names, self.alpha)
        return alpha * math.sqrt(rank) if alpha is not None and self.by_root else alpha


def read_settings(path: Path, metadata: Mapping[str, str] | None) -> LoraSettings | None:
    """The settings of a LoRA file, None if none are noted.

    Args:
        metadata: of the file; it wins over what lies beside it.
    Raises:
        CheckpointError: if adapter_config.json cannot be read.
    """
    for noted in (_noted_as_json(metadata or {}, path.name), metadata or {}):
        settings = _of_transformer(noted, "the metadata of the file")
        if settings is not None:
            return settings
    config = path.parent / CONFIG_FILE
    return _of_transformer(_read_config(config, path.name), CONFIG_FILE) if _is_beside(config, path) else None


def _noted_as_json(metadata: Mapping[str, str], file_name: str) -> Mapping[str, Any]:
    try:
        noted = read_json(metadata.get(METADATA_KEY, "{}"))
    except ValueError:
        logger.warning("LoRA %s: %s in its metadata is not valid JSON; an alpha in it is not used", file_name, METADATA_KEY)
        return {}
    return noted if isinstance(noted, dict) else {}


def _is_beside(config: Path, path: Path) -> bool:
    """Whether a configuration is that of a file: PEFT gives the file its name, and others may be alone in the folder."""
    if not config.is_file():
        return False
    weights = [file for file in path.parent.iterdir() if file.suffix.lower() in WEIGHTS]
    return path.name.startswith(PEFT_FILE) or len(weights) == 1


def _read_config(config: Path, file_name: str) -> Mapping[str, Any]:
    try:
        noted = read_json(read_plain(config, MOST_JSON_BYTES, through_links=True))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{config.name} beside {file_name} cannot be read, and it says how strong the LoRA is. Get it again, or delete it."
        ) from error
    return noted if isinstance(noted, dict) else {}


def _of_transformer(noted: Mapping[str, Any], source: str) -> LoraSettings | None:
    parts: dict[str, dict[str, Any]] = {}
    for key, value in noted.items():
        part, _, name = key.rpartition(".")
        parts.setdefault(part, {})[name] = value
    settings = {part: found for part, values in parts.items() if (found := _settings(values, source)) and not OTHER_PARTS.match(part)}
    best = next((part for part in PARTS if part in settings), None)
    return settings[best] if best is not None else next(iter(settings.values()), None)


def _settings(values: Mapping[str, Any], source: str) -> LoraSettings | None:
    is_rank_noted = "lora_alpha" in values or "r" in values  # `alpha` alone may mean anything
    alpha = _number(values.get("lora_alpha", values.get("alpha") if is_rank_noted else None))
    alphas = _numbers(values.get("alpha_pattern"))
    if alpha is None and not alphas:
        return None
    rank = _number(values.get("r", values.get("rank")))
    ranks = {name: round(number) for name, number in _numbers(values.get("rank_pattern")).items()}
    by_root = values.get("use_rslora") in (True, "true", "True")
    return LoraSettings(source, alpha, None if rank is None else round(rank), alphas, ranks, by_root)


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _numbers(values: Any) -> dict[str, float]:
    if not isinstance(values, dict):
        return {}
    ways = {pattern: _ways(pattern) for pattern in values}
    if sum(ways.values()) > MOST_WAYS:
        hard = max(ways, key=ways.__getitem__)
        raise CheckpointError(f"Patterns for the alpha of the LoRA could take for ever to match, as {shown(hard)}. Get the file again.")
    return {name: number for name, value in values.items() if (number := _number(value)) is not None}


def _ways(pattern: str) -> float:
    """In how many ways a pattern may be tried with a name, at most: alternatives, options and repeats multiply."""
    repeats = len(REPEATS.findall(pattern))
    if HARD_PATTERN.search(pattern) or repeats > MOST_REPEATS:
        return math.inf
    alternatives = math.prod(1 + part.count("|") for part in pattern.split("("))
    return alternatives * 2 ** len(OPTION.findall(pattern)) * LONGEST_NAME**repeats


def _matching(patterns: Mapping[str, Value], names: Iterable[str], default: Value | None) -> Value | None:
    """The value of the first pattern that is the end of a name, from the start of one of its words."""
    names = [name for name in names if len(name) <= LONGEST_NAME]
    return next((value for pattern, value in patterns.items() if any(_is_end(pattern, name) for name in names)), default)


def _is_end(pattern: str, name: str) -> bool:
    compiled = _compiled(pattern)
    return compiled.match(name) is not None if compiled else name == pattern or name.endswith(f".{pattern}")


@functools.lru_cache(maxsize=MOST_WAYS)
def _compiled(pattern: str) -> re.Pattern[str] | None:
    """What matches the end of a name; None where it is no regular expression."""
    try:
        return re.compile(rf"(?:.*\.)?(?:{pattern})$")
    except (re.error, OverflowError, RecursionError):
        return None
