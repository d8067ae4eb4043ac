"""The subgraph blueprint, and the templates that are built around it."""

from __future__ import annotations

from dataclasses import replace

from .parts import (
    INTERPOLATION,
    LISTEN,
    PORTRAIT,
    POSE_FINDER,
    PREPARE,
    PREVIEW,
    SAVE,
    SPEECH,
    SWITCH,
    TEXT,
    UPSCALER,
    App,
    Blueprint,
    Group,
    Node,
    Workflow,
    change,
    models,
    prepare,
    sample,
)

TALKING_VIDEO = Blueprint(
    name="Talking video, lip sync (Wan S2V)",
    description="A picture and a sound become a talking or singing video of any length. Connect clips to Save Video (Wan S2V).",
    category="Video generation and editing/Speech to video",
    search_aliases=("talking photo", "talking head", "avatar", "singing", "lip sync", "lipsync", "speech to video", "s2v"),
    inputs={
        "image": (9, "image"),
        "audio": (8, "audio"),
        "prompt": (7, "prompt"),
        "quality": (15, "quality"),
        "duration": (8, "duration"),
        "seed": (11, "seed"),
        "run_name": (11, "run_name"),
        "model_name": (1, "model_name"),
        "lora_name": (14, "lora_name"),
        "text_encoder_name": (2, "text_encoder_name"),
        "audio_encoder_name": (3, "audio_encoder_name"),
        "vae_name": (4, "vae_name"),
    },
    outputs={"clips": (11, "clips"), "video": (13, "VIDEO"), "preview": (9, "preview")},
    previews={"video-preview": 11},
    groups=(
        models(),
        Group("2  Prompt and quality", (TEXT, SWITCH), 340),
        prepare(
            replace(LISTEN, sources={"audio_encoder": (3, "audio_encoder")}),
            replace(PREPARE, sources={"encoded_audio": (8, "encoded_audio"), "vae": (4, "vae")}),
        ),
        sample(),
        Group(
            "5  Outputs",
            (
                Node(12, "WanS2VDecode", {}, {"clips": (11, "clips")}),
                Node(13, "CreateVideo", {}, {"images": (12, "images"), "audio": (12, "audio"), "fps": (12, "fps")}),
            ),
            note="""*clips* goes to Save Video (Wan S2V), of any length. *video* is for all other nodes: it holds all frames in
memory, and is only made if it is connected.""",
        ),
    ),
)

FILM_POSE = Blueprint(
    name="Pose of a film (Wan S2V)",
    description="Draws the skeleton of a filmed person, frame by frame, with ComfyUI's SDPose nodes. Connect video to Pose (Wan S2V).",
    category="Conditioning & Preprocessors/Pose",
    search_aliases=("pose video", "openpose", "dwpose", "sdpose", "skeleton", "s2v"),
    inputs={"video": (41, "video"), "ckpt_name": (42, "ckpt_name")},
    outputs={"video": (45, "VIDEO")},
    groups=(
        Group(
            "1  Film and model",
            (
                Node(41, "GetVideoComponents"),
                Node(42, "CheckpointLoaderSimple", {"ckpt_name": POSE_FINDER}),
            ),
            note="""All frames of the film are in memory here: cut it to the length that you need.""",
        ),
        Group("2  Find", (Node(43, "SDPoseKeypointExtractor", {}, {"model": (42, "MODEL"), "vae": (42, "VAE"), "image": (41, "images")}),)),
        Group(
            "3  Draw",
            (
                Node(44, "SDPoseDrawKeypoints", {}, {"keypoints": (43, "keypoints")}),
                Node(45, "CreateVideo", {}, {"images": (44, "IMAGE"), "fps": (41, "fps")}),
            ),
        ),
    ),
)
BLUEPRINTS = (TALKING_VIDEO, FILM_POSE)

PICTURE, SOUND, TALK, PLAN, VIDEO = 52, 53, 51, 54, 55  # node ids; those of the blueprint's nodes are smaller

QUICK_NODES = (
    replace(PORTRAIT, id=PICTURE, title="1  Your picture"),
    replace(SPEECH, id=SOUND, title="2  Your sound"),
    Node(TALK, TALKING_VIDEO.name, {}, {"image": (PICTURE, "IMAGE"), "audio": (SOUND, "AUDIO")}, title="3  Talking video (Wan S2V)"),
    replace(PREVIEW, id=PLAN, sources={"images": (TALK, "preview")}, title="What it will take: clips, time, memory"),
    replace(SAVE, id=VIDEO, sources={"clips": (TALK, "clips")}, title="4  Your video", height=400),
)
QUICK_NOTE = """**1** Choose a picture and **2** a sound. **3** Describe the scene. Press **Run**.

*draft* takes minutes, *final* about 20 times as long. Try 5 seconds first: *duration* 5."""


def _quick_groups(note: str) -> tuple[Group, ...]:
    picture, sound, talk, plan, video = QUICK_NODES
    return (Group("", (picture, sound), 330, note), Group("", (talk,), 400), Group("", (plan, video), 400))


QUICK_START = Workflow("wan_s2v_quick_start", "Talking photo, quick start (Wan S2V)", _quick_groups(QUICK_NOTE))

QUICK_APP = Workflow(
    "wan_s2v_app",
    "Lip sync app, no nodes (Wan S2V).app",
    _quick_groups(QUICK_NOTE),
    App(
        ((PICTURE, "image"), (SOUND, "audio"), (TALK, "prompt"), (TALK, "quality"), (TALK, "duration")),
        (PLAN, TALK, VIDEO),
    ),
)

TWO_PASS = Workflow(
    "wan_s2v_two_pass",
    "Upscaled talking video (Wan S2V)",
    (
        Group(
            "1  Yours",
            QUICK_NODES[:2],
            340,
            """The *run_name* keeps the clips: change what comes behind and press Run, and nothing is sampled again. All
frames are in memory behind *Decode Clips*: work on long speech in parts.""",
        ),
        Group("2  Talking video", (change(QUICK_NODES[2], run_name="my_two_pass"),), 400),
        Group(
            "3  First pass: 16 frames per second",
            (QUICK_NODES[3], change(replace(QUICK_NODES[4], title="First pass"), filename_prefix="video/wan_s2v_first_pass")),
            400,
        ),
        Group(
            "4  Smoother: 24 frames per second",
            (
                Node(56, "WanS2VDecode", {}, {"clips": (TALK, "clips")}),
                Node(57, "FrameInterpolationModelLoader", {"model_name": INTERPOLATION}),
                Node(58, "FrameInterpolate", {"multiplier": 3}, {"interp_model": (57, "INTERP_MODEL"), "images": (56, "images")}),
                Node(59, "WanS2VFrameRate", {"target_fps": "24"}, {"images": (58, "IMAGE"), "audio": (56, "audio")}),
            ),
            360,
            """Three times the frames, of which *Change Frame Rate* takes every second one: 24 fps, same length, still in
sync. Any interpolation node fits here.""",
        ),
        Group(
            "5  Larger: twice the size",
            (
                Node(60, "UpscaleModelLoader", {"model_name": UPSCALER}),
                Node(61, "ImageUpscaleWithModel", {}, {"upscale_model": (60, "UPSCALE_MODEL"), "image": (59, "images")}),
                Node(62, "ImageScaleBy", {"upscale_method": "area", "scale_by": 0.5}, {"image": (61, "IMAGE")}),
                Node(
                    63,
                    "WanS2VSaveVideo",
                    {"filename_prefix": "video/wan_s2v_second_pass"},
                    {"images": (62, "IMAGE"), "audio": (56, "audio"), "fps": (59, "fps")},
                    title="Second pass",
                ),
            ),
            400,
        ),
    ),
)
