"""What the graphs are made of: nodes, columns, and those that the workflows have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cli.models.files import PARTS, PRECISIONS, select

PROMPT = "A woman faces the camera and talks calmly, with small natural movements of her head and shoulders."
SONG_PROMPT = "A woman faces the camera and sings with feeling, her head sways gently with the music."
DUB_PROMPT = "A woman faces the camera and talks, her lips and chin follow every word."
HUB = "https://huggingface.co/Comfy-Org"
UPSCALER = "RealESRGAN_x4plus.safetensors"
INTERPOLATION = "film_net_fp16.safetensors"
POSE_FINDER = "sdpose_wholebody_fp16.safetensors"
STOCK_MODELS = {  # models of ComfyUI's own nodes, from where its own blueprints fetch them: file -> folder, address
    UPSCALER: ("upscale_models", f"{HUB}/Real-ESRGAN_repackaged/resolve/main/{UPSCALER}"),
    INTERPOLATION: ("frame_interpolation", f"{HUB}/frame_interpolation/resolve/main/frame_interpolation/{INTERPOLATION}"),
    POSE_FINDER: ("checkpoints", f"{HUB}/SDPose/resolve/main/checkpoints/{POSE_FINDER}"),
}
SMALL_FILES, EXACT_FILES = ({file.part: file.name for file in select("comfy", precision, tuple(PARTS))} for precision in PRECISIONS)


@dataclass(frozen=True)
class Node:
    """A node of a workflow.

    Attributes:
        type: its id, or the name of a blueprint.
        values: widgets that are not at their defaults.
        sources: input -> (node id, name of its output).
        height: on the canvas; None for the usual one of its type.
        labels: what is shown instead of the name of an input.
    """

    id: int
    type: str
    values: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    title: str = ""
    height: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """A column of nodes, with a note where there is something to say; without a title there is no frame around it."""

    title: str
    nodes: Sequence[Node]
    width: int = 360
    note: str = ""


@dataclass(frozen=True)
class App:
    """The form that ComfyUI shows instead of the graph.

    Attributes:
        inputs: (node id, widget), from top to bottom.
        outputs: the nodes whose pictures and videos are shown.
    """

    inputs: Sequence[tuple[int, str]]
    outputs: Sequence[int]


@dataclass(frozen=True)
class Workflow:
    """A template of the front end.

    Attributes:
        name: of its twin in API format.
        title: of its file; the front end shows it, and searches nothing else.
    """

    name: str
    title: str
    groups: Sequence[Group]
    app: App | None = None

    @property
    def file(self) -> str:
        """Path in this checkout."""
        return f"workflows/{self.title}.json"

    @property
    def picture(self) -> str:
        """Path of what the front end shows in the list of templates."""
        return f"workflows/{self.title}.jpg"

    @property
    def nodes(self) -> list[Node]:
        return [node for group in self.groups for node in group.nodes]


@dataclass(frozen=True)
class Blueprint:
    """A subgraph for the node library.

    Attributes:
        inputs: name -> (node id, its input).
        outputs: name -> (node id, its output).
        previews: what the front end calls a preview -> the node that shows it, and lets the subgraph node show it too.
    """

    name: str
    description: str
    category: str
    search_aliases: Sequence[str]
    inputs: Mapping[str, tuple[int, str]]
    outputs: Mapping[str, tuple[int, str]]
    groups: Sequence[Group]
    previews: Mapping[str, int] = field(default_factory=dict)


def _loaders(files: Mapping[str, str]) -> tuple[Node, Node, Node, Node]:
    return (
        Node(1, "WanS2VModelLoader", {"model_name": files["model"]}),
        Node(2, "WanS2VTextEncoderLoader", {"text_encoder_name": files["text"]}),
        Node(3, "WanS2VAudioEncoderLoader", {"audio_encoder_name": files["audio"]}),
        Node(4, "WanS2VVAELoader", {"vae_name": files["vae"]}),
    )


MODEL_LOADER, TEXT_LOADER, AUDIO_LOADER, VAE_LOADER = _loaders(SMALL_FILES)
EXACT_LOADERS = _loaders(EXACT_FILES)
PORTRAIT = Node(5, "LoadImage", {"image": "sample_portrait.png"}, title="Your picture")
SPEECH = Node(6, "LoadAudio", {"audio": "sample_speech.wav"}, title="Your sound")
TEXT = Node(7, "WanS2VTextEncode", {"prompt": PROMPT}, {"clip": (2, "clip")})
LISTEN = Node(8, "WanS2VAudioEncode", {}, {"audio_encoder": (3, "audio_encoder"), "audio": (6, "AUDIO")})
PREPARE = Node(9, "WanS2VPrepare", {}, {"encoded_audio": (8, "encoded_audio"), "image": (5, "IMAGE"), "vae": (4, "vae")})
PREVIEW = Node(10, "PreviewImage", {}, {"images": (9, "preview")}, title="What it will take")
PLAIN_SAMPLE = Node(
    11,
    "WanS2VSampler",
    {},
    {"model": (1, "model"), "positive": (7, "positive"), "negative": (7, "negative"), "vae": (4, "vae"), "plan": (9, "plan")},
)
SAVE = Node(12, "WanS2VSaveVideo", {"filename_prefix": "video/wan_s2v"}, {"clips": (11, "clips")}, title="Your video")
DRAFT_LORA = Node(14, "WanS2VLoraLoader", {"lora_name": SMALL_FILES["lora"]}, {"model": (1, "model")})
SWITCH = Node(15, "WanS2VDraftOrFinal", {}, {"model": (1, "model"), "draft_model": (14, "model")})
SAMPLE = replace(
    PLAIN_SAMPLE, sources={**PLAIN_SAMPLE.sources, **{name: (15, name) for name in ("model", "steps", "cfg", "shift", "solver")}}
)
LIVE_LORA = Node(14, "WanS2VLoraLoader", {"lora_name": "liveavatar.safetensors"}, {"model": (1, "model")})
LIVE_SAMPLE = Node(
    11, "WanS2VLiveSampler", {}, {"model": (14, "model"), "positive": (7, "positive"), "vae": (4, "vae"), "plan": (9, "plan")}
)
DRAFT_LOADERS = (MODEL_LOADER, DRAFT_LORA, TEXT_LOADER, AUDIO_LOADER, VAE_LOADER)


def change(node: Node, sources: Mapping[str, tuple[int, str]] | None = None, **values: Any) -> Node:
    """The node with other values or links."""
    return replace(node, values={**node.values, **values}, sources={**node.sources, **(sources or {})})


def models(*nodes: Node, note: str = "") -> Group:
    return Group("1  Models", nodes or DRAFT_LOADERS, note=note)


def yours(*nodes: Node, note: str = "") -> Group:
    return Group("2  Yours", nodes or (PORTRAIT, SPEECH, TEXT, SWITCH), 340, note)


def prepare(*nodes: Node, note: str = "") -> Group:
    return Group("3  Prepare", nodes or (LISTEN, PREPARE, PREVIEW), 400, note)


def sample(*nodes: Node, note: str = "") -> Group:
    return Group("4  Sample", nodes or (SAMPLE,), 340, note)


def save(*nodes: Node, note: str = "") -> Group:
    return Group("5  Save", nodes or (SAVE,), 420, note)
