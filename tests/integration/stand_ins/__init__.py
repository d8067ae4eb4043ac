"""Nodes for the tests only: models that show what they are told, and inputs that no real file gives."""

from .broken import StandInAudio, StandInConditioning, StandInImages, StandInNaNModel
from .flash import StandInAttention, StandInAudioEncoder, StandInModel, StandInVAE
from .gguf import StandInGGUFLoader

NODE_CLASS_MAPPINGS = {
    node.__name__: node
    for node in (
        StandInAttention,
        StandInAudio,
        StandInAudioEncoder,
        StandInConditioning,
        StandInGGUFLoader,
        StandInImages,
        StandInModel,
        StandInNaNModel,
        StandInVAE,
    )
}
