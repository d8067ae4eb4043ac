"""Nodes for the tests only: models that show what they are told, and inputs that no real file gives."""

from .broken import StandInAudio, StandInConditioning, StandInImages, StandInNaNModel
from .drift import StandInColourVAE, StandInDriftingModel
from .flash import StandInAttention, StandInAudioEncoder, StandInModel, StandInPoseModel, StandInVAE
from .gguf import StandInGGUFLoader
from .interpolation import StandInInterpolation

NODE_CLASS_MAPPINGS = {
    node.__name__: node
    for node in (
        StandInAttention,
        StandInAudio,
        StandInAudioEncoder,
        StandInColourVAE,
        StandInConditioning,
        StandInDriftingModel,
        StandInGGUFLoader,
        StandInImages,
        StandInInterpolation,
        StandInModel,
        StandInNaNModel,
        StandInPoseModel,
        StandInVAE,
    )
}
