"""What graphs.py is made of: nodes, groups, and those that the workflows have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

PROMPT = "A woman faces the camera and talks calmly, with small natural movements of her head and shoulders."
MODEL = "wan2.2_s2v_14B_bf16.safetensors"


@dataclass(frozen=True)
class Node:
    """A node of a workflow.

    Attributes:
        values: widgets that are not at their defaults.
        sources: input -> (node id, name of its output).
        height: on the canvas; None for the usual one of its type.
    """

    id: int
    type: str
    values: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    title: str = ""
    height: int | None = None


@dataclass(frozen=True)
class Group:
    """A column of nodes below a note."""

    title: str
    note: str
    nodes: Sequence[Node]
    width: int = 400


@dataclass(frozen=True)
class Workflow:
    name: str
    groups: Sequence[Group]

    @property
    def nodes(self) -> list[Node]:
        return [node for group in self.groups for node in group.nodes]


@dataclass(frozen=True)
class Blueprint:
    """A subgraph for the node library.

    Attributes:
        inputs: name -> (node id, its input).
        outputs: name -> (node id, its output).
    """

    name: str
    description: str
    category: str
    search_aliases: Sequence[str]
    inputs: Mapping[str, tuple[int, str]]
    outputs: Mapping[str, tuple[int, str]]
    groups: Sequence[Group]


MODEL_LOADER = Node(1, "WanS2VModelLoader", {"model_name": MODEL})
TEXT_LOADER = Node(2, "WanS2VTextEncoderLoader", {"text_encoder_name": "umt5_xxl_fp16.safetensors"})
AUDIO_LOADER = Node(3, "WanS2VAudioEncoderLoader", {"audio_encoder_name": "wav2vec2_large_english_fp16.safetensors"})
VAE_LOADER = Node(4, "WanS2VVAELoader", {"vae_name": "wan_2.1_vae.safetensors"})
LOADERS = (MODEL_LOADER, TEXT_LOADER, AUDIO_LOADER, VAE_LOADER)
PORTRAIT = Node(5, "LoadImage", {"image": "sample_portrait.png"}, title="Portrait")
SPEECH = Node(6, "LoadAudio", {"audio": "sample_speech.wav"}, title="Speech")
TEXT = Node(7, "WanS2VTextEncode", {"prompt": PROMPT}, {"clip": (2, "clip")})
LISTEN = Node(8, "WanS2VAudioEncode", {}, {"audio_encoder": (3, "audio_encoder"), "audio": (6, "AUDIO")})
PREPARE = Node(9, "WanS2VPrepare", {}, {"encoded_audio": (8, "encoded_audio"), "image": (5, "IMAGE"), "vae": (4, "vae")})
PREVIEW = Node(10, "PreviewImage", {}, {"images": (9, "preview")}, title="Clips and Sound")
SAMPLE = Node(
    11,
    "WanS2VSampler",
    {},
    {"model": (1, "model"), "positive": (7, "positive"), "negative": (7, "negative"), "vae": (4, "vae"), "plan": (9, "plan")},
)
SAVE = Node(12, "WanS2VSaveVideo", {"filename_prefix": "video/wan_s2v"}, {"clips": (11, "clips")})

MODELS_NOTE = """## Models

Four files, in the folders `diffusion_models`, `text_encoders`, `audio_encoders` and `vae`. If one is missing, ComfyUI offers to
download it."""
TWO_MORE_MODELS_NOTE = """## Models

Four files, in the folders `diffusion_models`, `text_encoders`, `audio_encoders` and `vae`, and two more for groups 5 and 6. If one is
missing, ComfyUI offers to download it."""
YOURS_NOTE = """## Yours

Choose a portrait and a speech recording of any length, and describe the scene. The negative prompt is the model's own, in Chinese."""
PREPARE_NOTE = """## Look before you wait

Runs in seconds: the picture as it will be cut, the clips over the sound, and what time and memory the whole will take."""
SAMPLE_NOTE = """## Sample

Clip after clip, each going on from the one before, with a live preview. A *run_name* keeps finished clips, so that a long video can go
on after a break."""
SAVE_NOTE = """## Save

Exactly as long as the sound, 16 frames per second, with sound. The workflow is in the file: drop it onto the canvas to get this graph
back."""


def change(node: Node, sources: Mapping[str, tuple[int, str]] | None = None, **values: Any) -> Node:
    """The node with other values or links."""
    return replace(node, values={**node.values, **values}, sources={**node.sources, **(sources or {})})


def models(*nodes: Node, note: str = MODELS_NOTE) -> Group:
    return Group("1  Models", note, nodes or LOADERS)


def yours(*nodes: Node, note: str = YOURS_NOTE, title: str = "2  Your picture, speech and prompt") -> Group:
    return Group(title, note, nodes or (PORTRAIT, SPEECH, TEXT))


def prepare(*nodes: Node, note: str = PREPARE_NOTE) -> Group:
    return Group("3  Prepare", note, nodes or (LISTEN, PREPARE, PREVIEW), 460)


def sample(*nodes: Node, note: str = SAMPLE_NOTE) -> Group:
    return Group("4  Sample", note, nodes or (SAMPLE,))


def save(*nodes: Node, note: str = SAVE_NOTE) -> Group:
    return Group("5  Save", note, nodes, 520)
