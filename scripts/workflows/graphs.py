"""The shipped workflows and the subgraph blueprint as data."""

from __future__ import annotations

from dataclasses import replace

from wan_s2v_model.constants import NEGATIVE_PROMPT

from .parts import (
    AUDIO_LOADER,
    LISTEN,
    MODEL,
    MODEL_LOADER,
    PORTRAIT,
    PREPARE,
    PREVIEW,
    PROMPT,
    SAMPLE,
    SAVE,
    SPEECH,
    TEXT,
    TEXT_LOADER,
    TWO_MORE_MODELS_NOTE,
    VAE_LOADER,
    Blueprint,
    Group,
    Node,
    Workflow,
    change,
    models,
    prepare,
    sample,
    save,
    yours,
)

SONG_PROMPT = "A woman faces the camera and sings with feeling, her head sways gently with the music."
SCHEDULE = """A woman faces the camera and talks calmly, with small natural movements of her head and shoulders.
0:05 A woman faces the camera, smiles and talks cheerfully, nodding now and then.
"""
LORA = "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors"
FEW_STEPS = {"steps": 4, "cfg": 1.0, "shift": 5.0, "solver": "euler"}
UPSCALER = "RealESRGAN_x4plus.safetensors"
INTERPOLATION = "film_net_fp16.safetensors"
HUB = "https://huggingface.co/Comfy-Org"
STOCK_MODELS = {  # models of ComfyUI's own nodes, from where its own blueprints fetch them: file -> folder, address
    UPSCALER: ("upscale_models", f"{HUB}/Real-ESRGAN_repackaged/resolve/main/{UPSCALER}"),
    INTERPOLATION: ("frame_interpolation", f"{HUB}/frame_interpolation/resolve/main/frame_interpolation/{INTERPOLATION}"),
}

QUICK_START = Workflow("wan_s2v_quick_start", (models(), yours(), prepare(), sample(), save(SAVE)))

FAST = Workflow(
    "wan_s2v_fast",
    (
        models(
            MODEL_LOADER,
            Node(14, "WanS2VLoraLoader", {"lora_name": LORA}, {"model": (1, "model")}),
            TEXT_LOADER,
            AUDIO_LOADER,
            VAE_LOADER,
            note="""## Models and a LoRA

The four models, and a LoRA in `loras` that was distilled for 4 steps. Missing files are offered for download.""",
        ),
        yours(),
        prepare(),
        sample(
            change(SAMPLE, {"model": (14, "model")}, **FEW_STEPS),
            note="""## Four steps

4 model calls per clip instead of 80. Motion is calmer and details differ from 40 steps. For 8 steps set *steps* to 8. At *cfg* 1 the
negative prompt has no effect.""",
        ),
        save(change(SAVE, filename_prefix="video/wan_s2v_fast")),
    ),
)

QUALITY = Workflow(
    "wan_s2v_quality",
    (
        models(),
        yours(),
        prepare(
            LISTEN,
            change(PREPARE, size="1024x704"),
            PREVIEW,
            note="""## The reference's size

The area of 1024x704, in the shape of your picture. About two and a half times the time of 480P, and more memory: the preview
says how much.""",
        ),
        sample(
            note="""## The reference's settings

40 steps, guidance 4.5, shift 3, unipc, 80 frames per clip, float32 between the blocks. Nothing here trades quality for speed."""
        ),
        save(
            change(SAVE, filename_prefix="video/wan_s2v_quality", quality=12),
            Node(13, "WanS2VSyncReport", {}, {"video": (12, "video")}),
            note="""## Save and check

*quality* 12 looks lossless; the format *mkv (ffv1, lossless)* keeps every bit. The report reads the file again: frame rate, durations, and
how the motion of the mouth lies to the sound.""",
        ),
    ),
)

LONG_VIDEO = Workflow(
    "wan_s2v_long_video",
    (
        models(),
        yours(
            PORTRAIT,
            SPEECH,
            Node(7, "WanS2VPromptSchedule", {"schedule": SCHEDULE}, {"clip": (2, "clip")}),
            note="""## A long speech

Any length: an hour takes hardly more memory than ten seconds. One prompt per line, with the time from which it holds; a single line is a
prompt for all.""",
        ),
        prepare(),
        sample(
            Node(13, "WanS2VContinuity", {"anchor": "latent statistics"}),
            change(SAMPLE, {"continuity": (13, "continuity")}, run_name="my_long_video"),
            note="""## It goes on

Finished clips lie in `output/wan_s2v_runs/my_long_video`. After a crash or a cancel press Run again. *Continuity* keeps colours from
drifting. Another video, another name.""",
        ),
        save(
            change(SAVE, filename_prefix="video/wan_s2v_long"),
            Node(14, "WanS2VDriftReport", {}, {"clips": (11, "clips")}),
            note="""## Save and look for drift

Written clip by clip. The report shows brightness, colour and sharpness of every clip; *redo_from_clip* of the sampler throws away what
went wrong.""",
        ),
    ),
)

POSE = Workflow(
    "wan_s2v_pose",
    (
        models(),
        yours(
            PORTRAIT,
            SPEECH,
            Node(13, "LoadVideo", {"file": "sample_pose.mp4"}, title="Pose"),
            replace(TEXT, height=220),
            note="""## Yours

The pose video shows a skeleton on black, as DWPose or SDPose nodes draw it, at any frame rate. Its person should stand where the one in
the portrait does.""",
            title="2  Your picture, speech, pose and prompt",
        ),
        prepare(
            LISTEN,
            Node(14, "WanS2VPose", {"at_end": "loop"}, {"video": (13, "VIDEO")}),
            change(PREPARE, {"pose": (14, "pose")}),
            PREVIEW,
            note="""## Pose

*strength* and the percents decide how strictly it is followed. *at_end*: what happens where it is shorter than the speech; here it
starts again.""",
        ),
        sample(),
        save(change(SAVE, filename_prefix="video/wan_s2v_pose")),
    ),
)

SONG = Workflow(
    "wan_s2v_song",
    (
        models(),
        yours(
            PORTRAIT,
            replace(SPEECH, values={"audio": "sample_song.flac"}, title="Song"),
            Node(13, "LoadAudio", {"audio": "sample_vocals.flac"}, title="Vocals"),
            change(TEXT, prompt=SONG_PROMPT),
            note="""## Song and vocals

The song is played. The vocals alone, from any tool that separates voices, move the mouth: so drums and guitars do not. Both begin at
the same moment.""",
            title="2  Your picture, song and prompt",
        ),
        prepare(
            change(LISTEN, {"driving_audio": (13, "AUDIO")}, loudness=-16, silence="rest in pauses"),
            PREPARE,
            PREVIEW,
            note="""## What the model hears

*driving_audio* is heard, *audio* is played. *loudness* brings both to -16 LUFS; *rest in pauses* closes the mouth between the lines.""",
        ),
        sample(
            Node(14, "WanS2VAudioGuidance", {"audio_cfg": 6.0}),
            change(SAMPLE, {"audio_guidance": (14, "audio_guidance")}),
            note="""## Sing out

*audio_cfg* above *cfg* moves the mouth more, for half as much time again. Take the node away, or set both to the same number, for the
reference.""",
        ),
        save(change(SAVE, filename_prefix="video/wan_s2v_song")),
    ),
)

TWO_PASS = Workflow(
    "wan_s2v_two_pass",
    (
        models(note=TWO_MORE_MODELS_NOTE),
        yours(),
        prepare(),
        sample(
            change(SAMPLE, run_name="my_two_pass"),
            replace(change(SAVE, filename_prefix="video/wan_s2v_first_pass"), height=584),
            note="""## First pass

The video at 16 fps, saved as it is. The *run_name* keeps its clips: change the second pass and press Run, and nothing is sampled again.""",
        ),
        Group(
            "5  Smoother: 24 frames per second",
            """## Interpolate

Three times the frames, of which *Change Frame Rate* takes every second one: 24 fps, same length, still in sync. Any interpolation node
fits here, or none: the rate in front comes from the sound.""",
            (
                Node(13, "WanS2VDecode", {}, {"clips": (11, "clips")}),
                Node(14, "FrameInterpolationModelLoader", {"model_name": INTERPOLATION}),
                Node(15, "FrameInterpolate", {"multiplier": 3}, {"interp_model": (14, "INTERP_MODEL"), "images": (13, "images")}),
                Node(16, "WanS2VFrameRate", {"target_fps": "24"}, {"images": (15, "IMAGE"), "audio": (13, "audio")}),
            ),
        ),
        Group(
            "6  Larger: twice the size",
            """## Upscale and save

Four times by the model, then half of that. All frames are in memory here: for long speech use *start* and *duration* of *Encode Audio*
and work in parts.""",
            (
                Node(17, "UpscaleModelLoader", {"model_name": UPSCALER}),
                Node(18, "ImageUpscaleWithModel", {}, {"upscale_model": (17, "UPSCALE_MODEL"), "image": (16, "images")}),
                Node(19, "ImageScaleBy", {"upscale_method": "area", "scale_by": 0.5}, {"image": (18, "IMAGE")}),
                Node(
                    20,
                    "WanS2VSaveVideo",
                    {"filename_prefix": "video/wan_s2v_second_pass"},
                    {"images": (19, "IMAGE"), "audio": (13, "audio"), "fps": (16, "fps")},
                ),
            ),
            520,
        ),
    ),
)

CORE_NODES = Workflow(
    "wan_s2v_core_nodes",
    (
        models(
            Node(1, "UNETLoader", {"unet_name": MODEL, "weight_dtype": "default"}),
            TEXT_LOADER,
            AUDIO_LOADER,
            Node(4, "VAELoader", {"vae_name": "wan_2.1_vae.safetensors"}),
            note="""## ComfyUI's own loaders

Model and VAE may come from any loader, with LoRA, cache and attention nodes behind it. Text and audio encoder come from ours, which
compute as the reference does.""",
        ),
        yours(
            PORTRAIT,
            SPEECH,
            Node(7, "CLIPTextEncode", {"text": PROMPT}, {"clip": (2, "clip")}, title="Prompt"),
            Node(8, "CLIPTextEncode", {"text": NEGATIVE_PROMPT}, {"clip": (2, "clip")}, title="Negative Prompt"),
        ),
        prepare(
            replace(LISTEN, id=9),
            replace(PREPARE, id=10, sources={"encoded_audio": (9, "encoded_audio"), "image": (5, "IMAGE"), "vae": (4, "VAE")}),
            replace(PREVIEW, id=11, sources={"images": (10, "preview")}),
        ),
        sample(
            replace(
                SAMPLE,
                id=12,
                sources={
                    "model": (1, "MODEL"),
                    "positive": (7, "CONDITIONING"),
                    "negative": (8, "CONDITIONING"),
                    "vae": (4, "VAE"),
                    "plan": (10, "plan"),
                },
            ),
            Node(13, "WanS2VDecode", {}, {"clips": (12, "clips")}),
        ),
        save(
            Node(14, "CreateVideo", {}, {"images": (13, "images"), "audio": (13, "audio"), "fps": (13, "fps")}),
            Node(15, "SaveVideo", {"filename_prefix": "video/wan_s2v", "format": "auto"}, {"video": (14, "VIDEO")}),
            note="""## ComfyUI's own video nodes

*Decode Clips* hands over all frames at once. For long speech use *Save Video (Wan S2V)*, which writes clip by clip.""",
        ),
    ),
)

WORKFLOWS = (QUICK_START, FAST, QUALITY, LONG_VIDEO, POSE, SONG, TWO_PASS, CORE_NODES)

TALKING_VIDEO = Blueprint(
    name="Talking video (Wan S2V)",
    description="A picture and a sound become a talking or singing video of any length. Connect clips to Save Video (Wan S2V).",
    category="Video generation and editing/Speech to video",
    search_aliases=("talking", "singing", "lip sync", "speech to video", "s2v"),
    inputs={
        "image": (9, "image"),
        "audio": (8, "audio"),
        "prompt": (7, "prompt"),
        "size": (9, "size"),
        "seed": (11, "seed"),
        "steps": (11, "steps"),
        "cfg": (11, "cfg"),
        "run_name": (11, "run_name"),
        "model_name": (1, "model_name"),
        "text_encoder_name": (2, "text_encoder_name"),
        "audio_encoder_name": (3, "audio_encoder_name"),
        "vae_name": (4, "vae_name"),
    },
    outputs={"clips": (11, "clips"), "video": (13, "VIDEO"), "preview": (9, "preview")},
    groups=(
        models(),
        Group(
            "2  Prompt",
            """## Prompt

The negative prompt is the model's own, in Chinese.""",
            (TEXT,),
        ),
        prepare(
            replace(LISTEN, sources={"audio_encoder": (3, "audio_encoder")}),
            replace(PREPARE, sources={"encoded_audio": (8, "encoded_audio"), "vae": (4, "vae")}),
        ),
        sample(),
        Group(
            "5  Outputs",
            """## Outputs

*clips* for Save Video (Wan S2V), of any length. *video* for all other nodes: it holds all frames in memory, and is only made if it is
connected.""",
            (
                Node(12, "WanS2VDecode", {}, {"clips": (11, "clips")}),
                Node(13, "CreateVideo", {}, {"images": (12, "images"), "audio": (12, "audio"), "fps": (12, "fps")}),
            ),
        ),
    ),
)
