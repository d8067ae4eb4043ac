"""What directs the sampling of a run: draft or final, and options that few videos need, each a socket of its own."""

import logging

from comfy_api.latest import io

from ..wan_s2v_model import comfy_bridge
from ..wan_s2v_model.conditioning.plan import ANCHORS, SEED_POLICIES, Continuity
from ..wan_s2v_model.conditioning.pose import POSE_ENDS
from ..wan_s2v_model.constants import DEFAULT_GUIDANCE_SCALE, MOTION_LATENTS, VIDEO_FPS
from ..wan_s2v_model.limits import share_problem
from ..wan_s2v_model.media.pictures import read_optional_pictures
from ..wan_s2v_model.sampling.guidance import AudioGuidance, SamplingOptions
from ..wan_s2v_model.sampling.schedule import PRESETS
from ..wan_s2v_model.sampling.step_cache import StepCache
from .inputs import checks_inputs
from .sockets import WanS2VContinuitySettings, WanS2VGuidance, WanS2VOptions, WanS2VPoseSettings, WanS2VStepCacheSettings

logger = logging.getLogger("wan_s2v")


class WanS2VPose(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VPose",
            display_name="Pose (Wan S2V)",
            category="wan s2v/conditioning",
            description="Gives a video the gestures of a pose video: a drawn skeleton, such as DWPose or SDPose draws it.",
            search_aliases=["dwpose", "sdpose", "openpose", "skeleton", "gestures", "s2v"],
            inputs=[
                io.Video.Input("video", optional=True, tooltip="Pose video at its own frame rate; a file is read clip by clip."),
                io.Image.Input("images", optional=True, tooltip="Pose video as frames, instead of video; their rate is fps."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.01,
                    tooltip="How much the pose counts: 1 as the reference, 0 as without a pose.",
                ),
                io.Combo.Input(
                    "at_end",
                    options=list(POSE_ENDS),
                    default=POSE_ENDS[0],
                    tooltip="Where the pose video is shorter than the sound. hold: its last picture stays. loop: it starts again. "
                    "release: no pose from there. sync_mode official shows black instead, as the reference.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The pose is used from this share of the steps on; 0 is the first step, as in the reference.",
                    advanced=True,
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="The pose is used up to this share of the steps; 1 is the last step, as in the reference. "
                    "Early steps decide the posture, late ones details.",
                    advanced=True,
                ),
                io.Float.Input(
                    "fps",
                    default=float(VIDEO_FPS),
                    min=1.0,
                    max=240.0,
                    step=0.001,
                    tooltip="Frame rate of images; a video brings its own.",
                    advanced=True,
                ),
            ],
            outputs=[WanS2VPoseSettings.Output(display_name="pose", tooltip="For Prepare Video (Wan S2V).")],
        )

    @classmethod
    def validate_inputs(cls, start_percent, end_percent) -> bool | str:
        advice = "To sample without the pose set strength to 0."
        return share_problem("The pose", "", start_percent, end_percent, advice) or True

    @classmethod
    @checks_inputs
    def execute(cls, strength, at_end, start_percent, end_percent, fps, video=None, images=None) -> io.NodeOutput:
        if (video is None) == (images is None):
            raise ValueError(f"Connect either video or images to Pose (Wan S2V); connected: {'none' if video is None else 'both'}.")
        images = read_optional_pictures("images", images)
        pose = comfy_bridge.ConnectedPose(images, fps, video, strength, (start_percent, end_percent), at_end)
        pose.require_readable()
        return io.NodeOutput(pose)


class WanS2VDraftOrFinal(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VDraftOrFinal",
            display_name="Draft or Final (Wan S2V)",
            category="wan s2v/sampling",
            description="One switch between a quick draft with the 4-step LoRA and the settings of the reference.",
            search_aliases=["fast", "lightx2v", "lightning", "4 steps", "quality", "preset", "switch", "s2v"],
            inputs=[
                io.Combo.Input(
                    "quality",
                    options=list(PRESETS),
                    default="draft",
                    tooltip="draft: the model with the LoRA, 4 steps without guidance. final: the model alone, 40 steps with guidance; "
                    "20 times the time, with finer motion.",
                ),
                io.Model.Input("model", lazy=True, tooltip="For final: the model as it is loaded."),
                io.Model.Input("draft_model", lazy=True, tooltip="For draft: the same model with a LoRA that was distilled for 4 steps."),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="One of the two models. The other one is not loaded."),
                io.Int.Output(display_name="steps", tooltip="Steps per clip: 4 or 40."),
                io.Float.Output(display_name="cfg", tooltip="Guidance: 1 (none) or 4.5."),
                io.Float.Output(display_name="shift", tooltip="Shift of the noise levels: 5 or 3."),
                io.Combo.Output(display_name="solver", tooltip="euler or unipc."),
            ],
        )

    @classmethod
    def check_lazy_status(cls, quality, model=None, draft_model=None) -> list[str]:
        name, given = ("draft_model", draft_model) if quality == "draft" else ("model", model)
        return [name] if given is None else []

    @classmethod
    @checks_inputs
    def execute(cls, quality, model=None, draft_model=None) -> io.NodeOutput:
        return io.NodeOutput(draft_model if quality == "draft" else model, *PRESETS[quality])


class WanS2VContinuity(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VContinuity",
            display_name="Continuity (Wan S2V)",
            category="wan s2v/sampling",
            description="Keeps colour and contrast of a long video from drifting, and chooses the seeds of its clips.",
            search_aliases=["drift", "colour match", "color match", "anchor", "s2v"],
            inputs=[
                io.Combo.Input(
                    "anchor",
                    options=list(ANCHORS),
                    default=ANCHORS[0],
                    tooltip="What the end of each clip is led back to. off: nothing, as the reference. latent statistics: mean and spread "
                    "of each latent channel at the end of the first clip. colour transfer: those of red, green and blue in the picture.",
                ),
                io.Float.Input(
                    "anchor_strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the drift of a clip is taken back: 1 all of it, 0 nothing. Not used when anchor is off.",
                ),
                io.Combo.Input(
                    "seed_policy",
                    options=list(SEED_POLICIES),
                    default=SEED_POLICIES[0],
                    tooltip="seed + clip: every clip has noise of its own, as in the reference. same seed: all have that of the first, "
                    "which can repeat its gestures.",
                ),
            ],
            outputs=[WanS2VContinuitySettings.Output(display_name="continuity", tooltip="For Sample Video (Wan S2V).")],
        )

    @classmethod
    @checks_inputs
    def execute(cls, anchor, anchor_strength, seed_policy) -> io.NodeOutput:
        return io.NodeOutput(Continuity(anchor, anchor_strength, seed_policy))


class WanS2VAudioGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VAudioGuidance",
            display_name="Audio Guidance (Wan S2V)",
            category="wan s2v/sampling",
            description="Sets how strongly the sound guides the video, apart from the prompt. Steps where both differ take one call more.",
            search_aliases=["audio cfg", "lip sync", "audio scale", "s2v"],
            inputs=[
                io.Float.Input(
                    "audio_cfg",
                    default=DEFAULT_GUIDANCE_SCALE,
                    min=1.0,
                    max=30.0,
                    step=0.1,
                    tooltip="Guidance by the sound; cfg of the sampler is then that by the prompt. Equal numbers are the reference and "
                    "cost nothing; more moves the mouth more, 1 is no guidance by the sound.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Guidance by the sound begins behind this share of the steps.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Guidance by the sound ends behind this share of the steps.",
                ),
                io.Float.Input(
                    "audio_strength",
                    default=1.0,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="How much of the sound the model hears in every step: 0 is silence, 1 the sound as it is. Costs nothing.",
                ),
            ],
            outputs=[WanS2VGuidance.Output(display_name="audio_guidance", tooltip="For Sample Video (Wan S2V).")],
        )

    @classmethod
    def validate_inputs(cls, start_percent, end_percent) -> bool | str:
        advice = "To sample without it set audio_cfg to 1."
        return share_problem("Audio guidance", "", start_percent, end_percent, advice) or True

    @classmethod
    @checks_inputs
    def execute(cls, audio_cfg, start_percent, end_percent, audio_strength) -> io.NodeOutput:
        return io.NodeOutput(AudioGuidance(audio_cfg, start_percent, end_percent, audio_strength))


class WanS2VSamplingOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VSamplingOptions",
            display_name="Sampling Options (Wan S2V)",
            category="wan s2v/sampling",
            description="Saves time at some loss: guidance in a part of the steps only, and a shorter warm-up of the decoder.",
            search_aliases=["cfg", "guidance interval", "faster", "vae warmup", "s2v"],
            inputs=[
                io.Float.Input(
                    "cfg_start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Guidance begins behind this share of the steps; 0 is the first step, as in the reference.",
                ),
                io.Float.Input(
                    "cfg_end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Guidance ends behind this share of the steps. A step without guidance takes half the time, and the video "
                    "changes; 1 guides to the end, as the reference does.",
                ),
                io.Int.Input(
                    "vae_warmup",
                    default=MOTION_LATENTS,
                    min=1,
                    max=MOTION_LATENTS,
                    tooltip="Latents of motion that are decoded in front of a later clip and thrown away, 19 in the reference. "
                    "Fewer decode faster; the first frames of a clip then depart.",
                ),
            ],
            outputs=[WanS2VOptions.Output(display_name="options", tooltip="For Sample Video (Wan S2V).")],
        )

    @classmethod
    def validate_inputs(cls, cfg_start_percent, cfg_end_percent) -> bool | str:
        advice = "To sample without guidance set cfg of Sample Video to 1."
        return share_problem("Guidance", "cfg_", cfg_start_percent, cfg_end_percent, advice) or True

    @classmethod
    @checks_inputs
    def execute(cls, cfg_start_percent, cfg_end_percent, vae_warmup) -> io.NodeOutput:
        return io.NodeOutput(SamplingOptions(cfg_start_percent, cfg_end_percent, vae_warmup))


class WanS2VStepCache(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="WanS2VStepCache",
            display_name="Step Cache (Wan S2V)",
            category="wan s2v/sampling",
            description="Guesses steps that bring little new. Learns which from clips that are sampled in full, and measures the error.",
            search_aliases=["teacache", "easycache", "faster", "skip steps", "s2v"],
            inputs=[
                io.Float.Input(
                    "allowed_error",
                    default=0.05,
                    min=0.0,
                    max=1.0,
                    step=0.005,
                    tooltip="How far the latents of a clip may depart from the clip sampled in full: 0.05 is 5 %. More guesses more steps; "
                    "0 guesses none.",
                ),
                io.Int.Input(
                    "check_every",
                    default=8,
                    min=2,
                    max=1000,
                    tooltip="Behind so many clips, one is sampled both ways: its true error is noted with the run, and the next table "
                    "keeps to it. That clip takes up to twice as long. While the error is as expected, the next ones come twice and "
                    "four times as late.",
                    advanced=True,
                ),
            ],
            outputs=[WanS2VStepCacheSettings.Output(display_name="step_cache", tooltip="For Sample Video (Wan S2V).")],
        )

    @classmethod
    @checks_inputs
    def execute(cls, allowed_error, check_every) -> io.NodeOutput:
        return io.NodeOutput(StepCache(allowed_error, check_every))
