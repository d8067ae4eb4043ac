"""A short video by the real nodes with the tiny models, without a server: the same inputs each time, so the same video."""

import dataclasses
import math
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from wan_s2v_pack.scripts.tiny_models.fill import make_tiny_models
from wan_s2v_pack.tests.golden.comfyui import pack_module

SIDE = 64  # px; the smallest
FRAMES_PER_CLIP, NUM_CLIPS = 8, 3
NUM_FRAMES = NUM_CLIPS * FRAMES_PER_CLIP - 4  # the first clip has 5, the last one is not full
FPS = 16
RATE_HZ = 44_100
SEED, STEPS = 7, 2
QUALITY = 18
VAE_WIDTH = 2  # channels at full resolution; the tiny set has 8, and takes three times as long
VAE_WARMUP = 1  # latent decoded in front of a clip, because decoding takes most of the time
VAE_PATH = Path("vae", "wan_2.1_vae_tiny.safetensors")


def make_models(models: Path) -> None:
    """Write the tiny set, with a VAE that is narrower still."""
    make_tiny_models(models)
    wide = load_file(models / VAE_PATH)
    shapes = pack_module("wan_s2v_model.comfy_bridge.loaders").vae_shapes(VAE_WIDTH)
    narrow = {name: wide[name][tuple(map(slice, shape))].clone() for name, shape in shapes.items()}
    for name, tensor in narrow.items():
        if tensor.shape[1:].numel() > 1:  # as large a sum over fewer inputs
            tensor *= math.sqrt(wide[name].shape[1:].numel() / tensor.shape[1:].numel())
    save_file(narrow, models / VAE_PATH)


def use_folder(output: Path) -> None:
    """Let ComfyUI write below a folder, without the workflow in its files."""
    import folder_paths
    from comfy.cli_args import args

    args.disable_metadata = True
    folder_paths.set_output_directory(str(output))
    folder_paths.set_temp_directory(str(output / "temp"))


@dataclasses.dataclass(frozen=True)
class TinyRun:
    """The loaded models, and the inputs of every video."""

    num_clips: ClassVar[int] = NUM_CLIPS
    num_frames: ClassVar[int] = NUM_FRAMES
    fps: ClassVar[int] = FPS

    model: Any
    clip: Any
    audio_encoder: Any
    vae: Any
    audio: dict[str, Any]
    picture: torch.Tensor

    @classmethod
    def load(cls, models: Path) -> "TinyRun":
        """Load what `make_models` has written."""
        pack_module("nodes")  # imported once, not in every process that is forked from this one
        bridge = pack_module("wan_s2v_model.comfy_bridge")
        options = {"weight_dtype": "fp32", "precision": "official", "attention": "comfyui"}
        generator = torch.Generator().manual_seed(0)
        seconds = torch.arange(cls.num_frames * RATE_HZ // cls.fps) / RATE_HZ
        sound = 0.3 * torch.sin(2 * math.pi * 220 * seconds) + 0.1 * torch.randn(2, len(seconds), generator=generator)
        return cls(
            model=bridge.load_diffusion_model(str(models / "diffusion_models" / "wan_s2v_tiny.safetensors"), options),
            clip=bridge.load_text_encoder(str(models / "text_encoders" / "umt5_tiny.safetensors")),
            audio_encoder=bridge.AudioEncoder(str(models / "audio_encoders" / "wav2vec2-tiny" / "model.safetensors"), "fp32"),
            vae=bridge.load_vae(str(models / VAE_PATH), "fp32"),
            audio={"waveform": sound[None].clamp(-1, 1), "sample_rate": RATE_HZ},
            picture=torch.rand(1, SIDE, SIDE, 3, generator=generator),
        )

    def render(self, output: Path, *, run_name: str, video_format: str, **options: Any) -> Path:
        """The whole graph: sound, prompts, plan, clips, video file.

        Args:
            output: ComfyUI's output folder. options: of `sample`.
        Returns:
            The video file.
        """
        clips = self.sample(output, run_name=run_name, **options)
        saved = pack_module("nodes.video").WanS2VSaveVideo.execute("video", video_format, QUALITY, float(self.fps), clips=clips)
        return Path(saved.args[1])

    def sample(self, output: Path, *, run_name: str, redo_from_clip: int = 0, heard: Any = None, steps: int = STEPS) -> Any:
        """The graph up to the sampler; gives its clips.

        Args:
            heard: EncodedAudio, with which the sound is not encoded.
        """
        use_folder(output)
        with torch.inference_mode():
            positive, negative = pack_module("nodes.text").WanS2VTextEncode.execute(self.clip, "A person sings.", "").args
            audio = heard or pack_module("nodes.audio").WanS2VAudioEncode.execute(self.audio_encoder, self.audio, 0.0, 0.0).args[0]
            size = {"size": {"size": "custom", "width": SIDE, "height": SIDE}, "frames_per_clip": FRAMES_PER_CLIP, "max_clips": 0}
            prepare = pack_module("nodes.prepare").WanS2VPrepare
            plan = prepare.execute(audio, self.picture, self.vae, **size).args[0]
            inputs = {"model": self.model, "positive": positive, "negative": negative, "vae": self.vae, "plan": plan}
            options = pack_module("nodes.directing").WanS2VSamplingOptions.execute(0.0, 1.0, VAE_WARMUP).args[0]
            settings = {"seed": SEED, "steps": steps, "cfg": 4.5, "options": options}
            sampler = pack_module("nodes.sampling").WanS2VSampler
            return sampler.execute(**inputs, **settings, run_name=run_name, redo_from_clip=redo_from_clip).args[0]


class TinyLiveRun(TinyRun):
    """The same live: two clips, between which the rings are emptied.

    Attributes:
        restart_clips: clips between two emptyings.
    """

    restart_clips: ClassVar[int] = 1
    num_clips: ClassVar[int] = 2
    num_frames: ClassVar[int] = 52  # the second clip has one block, of which seven frames are seen
    fps: ClassVar[int] = 25

    def sample(self, output: Path, *, run_name: str, redo_from_clip: int = 0, heard: Any = None, **_: Any) -> Any:
        use_folder(output)
        nodes = pack_module("nodes.live")
        nodes.RESTART_CLIPS = self.restart_clips
        with torch.inference_mode():
            positive = pack_module("nodes.text").WanS2VTextEncode.execute(self.clip, "A person sings.", "").args[0]
            encode = pack_module("nodes.audio").WanS2VAudioEncode.execute
            audio = heard or encode(self.audio_encoder, self.audio, 0.0, 0.0, frame_rate="25").args[0]
            size = {"size": {"size": "custom", "width": SIDE, "height": SIDE}, "frames_per_clip": 80, "max_clips": 0}
            plan = pack_module("nodes.prepare").WanS2VPrepare.execute(audio, self.picture, self.vae, **size).args[0]
            inputs = {"model": self.model, "positive": positive, "vae": self.vae, "plan": plan, "seed": SEED, "steps": "3"}
            return nodes.WanS2VLiveSampler.execute(**inputs, run_name=run_name, redo_from_clip=redo_from_clip).args[0]
