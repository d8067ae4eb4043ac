"""What a file of the right kind needs besides: wav2vec2 all its layers, the official umT5 its tokenizer. Needs no PyTorch."""

from collections.abc import Collection
from pathlib import Path

from .constants import NUM_AUDIO_LAYERS
from .file_format import require_no_stand_in
from .identify import OFFICIAL_UMT5, CheckpointError

TOKENIZER = "spiece_model"  # in the text encoder's file, as if it were a tensor
TOKENIZER_PLACES = ("spiece.model", "google/umt5-xxl/spiece.model", "umt5-xxl/spiece.model")  # beside the official file


def require_audio_layers(num_layers: int, file_name: str) -> None:
    """Raise CheckpointError unless a wav2vec2 has as many layers as Wan2.2-S2V listens to."""
    if num_layers + 1 != NUM_AUDIO_LAYERS:
        raise CheckpointError(
            f"{file_name} has {num_layers} layers; Wan2.2-S2V needs {NUM_AUDIO_LAYERS - 1}. Use wav2vec2-large-xlsr-53-english."
        )


def is_official_umt5(names: Collection[str]) -> bool:
    """Whether a umT5 file has the tensor names of the Wan authors, and so no tokenizer inside."""
    return any(all(name in names for name in shown) for shown in OFFICIAL_UMT5)


def find_tokenizer(folder: Path, file_name: str) -> Path:
    """The tokenizer beside an official umT5 file.

    Raises:
        CheckpointError: if it is not there, or only a pointer or a page in its place.
    """
    places = [folder / place for place in TOKENIZER_PLACES]
    tokenizer = next((place for place in places if place.is_file()), None)
    if tokenizer is None:
        raise CheckpointError(
            f"{file_name} needs its tokenizer: put spiece.model of google/umt5-xxl beside it or into {places[1].parent}, "
            "or pick ComfyUI's umt5_xxl_fp16.safetensors, which brings it."
        )
    require_no_stand_in(tokenizer)
    return tokenizer
