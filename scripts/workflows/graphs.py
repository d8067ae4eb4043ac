"""The shipped workflows: those with all nodes in sight, as data, and the list of all."""

from __future__ import annotations

from dataclasses import replace

from wan_s2v_model.constants import NEGATIVE_PROMPT

from .blueprints import FILM_POSE, QUICK_APP, QUICK_START, TWO_PASS
from .parts import (
    AUDIO_LOADER,
    DUB_PROMPT,
    EXACT_LOADERS,
    LISTEN,
    LIVE_LORA,
    LIVE_SAMPLE,
    MODEL_LOADER,
    PLAIN_SAMPLE,
    PORTRAIT,
    PREPARE,
    PREVIEW,
    PROMPT,
    SAMPLE,
    SAVE,
    SMALL_FILES,
    SONG_PROMPT,
    SPEECH,
    SWITCH,
    TEXT,
    TEXT_LOADER,
    VAE_LOADER,
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

SCHEDULE = """A woman faces the camera and talks calmly, with small natural movements of her head and shoulders.
0:05 A woman faces the camera, smiles and talks cheerfully, nodding now and then.
"""
DIALOGUE_PROMPT = "Two women sit side by side and talk in turn, each listens while the other speaks, with small natural movements."
MODELS_NOTE = """Missing files are offered for download. *Draft or Final* takes the LoRA of 4 steps, or the 40 steps of the
reference."""

COMMAND_LINE = Workflow(  # `predict` fills it in; it is no template
    "quick_start",
    "",
    (
        models(*EXACT_LOADERS),
        yours(PORTRAIT, SPEECH, TEXT),
        prepare(),
        sample(PLAIN_SAMPLE),
        save(),
    ),
)

ALL_NODES = Workflow(
    "wan_s2v_all_nodes", "Talking photo, all nodes (Wan S2V)", (models(note=MODELS_NOTE), yours(), prepare(), sample(), save())
)

QUALITY = Workflow(
    "wan_s2v_quality",
    "Talking photo, top quality (Wan S2V)",
    (
        models(
            *EXACT_LOADERS,
            note="""The exact files, 45 GB: bf16 and fp16 instead of fp8. 40 steps, guidance 4.5, shift 3, unipc, 80 frames per
clip. Nothing here trades quality for speed.""",
        ),
        yours(
            PORTRAIT,
            SPEECH,
            TEXT,
            note="""The size is the reference's, the area of 1024x704 in the shape of your picture: two and a half times the time
of 480P.""",
        ),
        prepare(LISTEN, change(PREPARE, size="1024x704"), PREVIEW),
        sample(PLAIN_SAMPLE),
        save(
            change(SAVE, filename_prefix="video/wan_s2v_quality", quality=12),
            note="""*quality* 12 looks lossless; the format *mkv (ffv1, lossless)* keeps every bit.""",
        ),
        Group("6  Check its sync", (Node(16, "WanS2VSyncReport", {}, {"video": (12, "video")}),), 380),
    ),
)

LONG_VIDEO = Workflow(
    "wan_s2v_long_video",
    "Long talking video (Wan S2V)",
    (
        models(
            note="""Finished clips lie in `output/wan_s2v_runs/my_long_video`. After a crash or a cancel press Run again. Another
video, another *run_name*.""",
        ),
        yours(PORTRAIT, SPEECH, Node(7, "WanS2VPromptSchedule", {"schedule": SCHEDULE}, {"clip": (2, "clip")}), SWITCH),
        prepare(),
        sample(
            Node(16, "WanS2VContinuity", {"anchor": "latent statistics"}),
            change(SAMPLE, {"continuity": (16, "continuity")}, run_name="my_long_video"),
        ),
        save(
            Node(17, "WanS2VDriftReport", {}, {"clips": (11, "clips")}, height=300),
            change(SAVE, filename_prefix="video/wan_s2v_long"),
        ),
    ),
)

TURNS = "0:00 1\n0:06.5 2"
SPEAKERS = Node(
    17,
    "WanS2VSpeakers",
    {"box_1": "0 0 50% 100%", "box_2": "50% 0 50% 100%", "turns": TURNS},
    {"audio_encoder": (3, "audio_encoder"), "encoded_audio_1": (8, "encoded_audio"), "encoded_audio_2": (8, "encoded_audio")},
)

DIALOGUE = Workflow(
    "wan_s2v_dialogue",
    "Two people talking (Wan S2V)",
    (
        models(),
        yours(
            change(PORTRAIT, image="sample_two_people.jpg"),
            replace(SPEECH, values={"audio": "sample_dialogue.flac"}, title="Your recording of both"),
            change(TEXT, prompt=DIALOGUE_PROMPT),
            SWITCH,
        ),
        Group(
            "3  Who talks",
            (LISTEN, SPEAKERS),
            320,
            """Each box is one half of the picture; masks from the mask editor fit more closely. *turns* says who speaks when.

**A recording for each?** Give the second one an *Encode Audio* of its own. Empty *turns*, and let *start_2* say at which second it
begins.""",
        ),
        replace(prepare(change(PREPARE, {"encoded_audio": (17, "encoded_audio")}), PREVIEW), title="4  Prepare"),
        replace(sample(), title="5  Sample"),
        replace(save(change(SAVE, filename_prefix="video/wan_s2v_dialogue")), title="6  Save"),
    ),
)

LIVE = Workflow(
    "wan_s2v_live",
    "Live talking video (Wan S2V)",
    (
        models(
            MODEL_LOADER,
            LIVE_LORA,
            TEXT_LOADER,
            AUDIO_LOADER,
            VAE_LOADER,
            note="""Live-Avatar's LoRA turns the same model into one that goes on and on: 25 frames per second, 4 steps, no
guidance, no border between clips.""",
        ),
        yours(PORTRAIT, SPEECH, TEXT),
        prepare(change(LISTEN, frame_rate="25"), PREPARE, PREVIEW),
        sample(
            LIVE_SAMPLE,
            note="""The video grows on this node while it is made. Give it a *run_name* where it is long: after a crash or a
cancel it goes on.

It remembers its last two seconds: 41.5 GB at 704x384, on the GPU or else in RAM. *memory* float8 takes half of that.""",
        ),
        save(change(SAVE, filename_prefix="video/wan_s2v_live")),
    ),
)

MASK = Node(18, "LoadImage", {"image": "sample_film_mask.png"}, title="What may change")
DUBBED = replace(PREPARE, sources={**PREPARE.sources, "image": (17, "image"), "dub": (17, "dub")})
POSED = change(PREPARE, {"pose": (17, "pose")})

POSE = Workflow(
    "wan_s2v_pose",
    "Talking avatar, pose video (Wan S2V)",
    (
        models(),
        yours(),
        Group(
            "3  Pose",
            (
                Node(17, "WanS2VPose", {"at_end": "loop"}, {"video": (16, "VIDEO")}),
                Node(16, "LoadVideo", {"file": "sample_pose.mp4"}, title="Your pose video"),
            ),
            320,
            """A skeleton on black, as DWPose or SDPose nodes draw it, at any frame rate. Its person should stand where the
one in the picture does. Where the pose ends before the sound, it begins again (*at_end* loop).""",
        ),
        replace(prepare(LISTEN, POSED, PREVIEW), title="4  Prepare"),
        replace(sample(), title="5  Sample"),
        replace(save(change(SAVE, filename_prefix="video/wan_s2v_pose")), title="6  Save"),
    ),
)

FILMED_POSE = Workflow(
    "wan_s2v_filmed_pose",
    "Talking avatar, from film (Wan S2V)",
    (
        models(),
        yours(),
        Group(
            "3  Pose of the film",
            (
                Node(51, FILM_POSE.name, {}, {"video": (52, "VIDEO")}),
                Node(17, "WanS2VPose", {"at_end": "loop"}, {"video": (51, "video")}),
                Node(52, "LoadVideo", {"file": "sample_film.mp4"}, title="Your film"),
            ),
            320,
            """A film of somebody who moves as your picture should. ComfyUI's own SDPose nodes draw its skeleton, at the
film's speed. Film the upper body, framed as in the picture.""",
        ),
        replace(prepare(LISTEN, POSED, PREVIEW), title="4  Prepare"),
        replace(sample(), title="5  Sample"),
        replace(save(change(SAVE, filename_prefix="video/wan_s2v_filmed_pose")), title="6  Save"),
    ),
)

DUB = Workflow(
    "wan_s2v_dub",
    "Dub a video, lip sync (Wan S2V)",
    (
        models(),
        yours(replace(SPEECH, title="The new voice"), change(TEXT, prompt=DUB_PROMPT), SWITCH, MASK),
        Group(
            "3  The video",
            (
                Node(
                    17,
                    "WanS2VDub",
                    {"at_end": "loop"},
                    {"source_video": (16, "VIDEO"), "source_mask": (18, "MASK")},
                ),
                Node(16, "LoadVideo", {"file": "sample_film.mp4"}, title="Your video"),
            ),
            320,
            """*What may change* is a picture of your video, of the same size, on which you paint lips, chin and cheeks: right click on
it, then *Open in MaskEditor*. Mask all places to which the head moves. Everything else stays as it is.""",
        ),
        replace(prepare(LISTEN, DUBBED, PREVIEW), title="4  Prepare"),
        replace(sample(), title="5  Sample"),
        replace(save(change(SAVE, filename_prefix="video/wan_s2v_dub")), title="6  Save"),
    ),
)

SONG_FILE = replace(SPEECH, values={"audio": "sample_song.flac"}, title="Your song")
SING_OUT = Node(16, "WanS2VAudioGuidance", {"audio_cfg": 6.0})
SING = change(SAMPLE, {"audio_guidance": (16, "audio_guidance")})
HEAR_VOCALS = {"loudness": -16, "silence": "rest in pauses"}

SONG = Workflow(
    "wan_s2v_song",
    "Lip sync a song (Wan S2V)",
    (
        models(),
        yours(PORTRAIT, SONG_FILE, change(TEXT, prompt=SONG_PROMPT), SWITCH),
        Group(
            "3  Its vocals",
            (Node(17, "LoadAudio", {"audio": "sample_vocals.flac"}, title="Its vocals"),),
            320,
            """The song is played. The vocals alone, from any tool that separates voices, move the mouth: drums and guitars do not.
Both files begin at the same moment.""",
        ),
        replace(prepare(change(LISTEN, {"driving_audio": (17, "AUDIO")}, **HEAR_VOCALS), PREPARE, PREVIEW), title="4  Prepare"),
        replace(sample(SING_OUT, SING), title="5  Sample"),
        replace(save(change(SAVE, filename_prefix="video/wan_s2v_song")), title="6  Save"),
    ),
)

MIX = Workflow(
    "wan_s2v_mix",
    "Lip sync a song, full mix (Wan S2V)",
    (
        models(),
        yours(PORTRAIT, SONG_FILE, change(TEXT, prompt=SONG_PROMPT), SWITCH),
        Group(
            "3  The voice: your separation node goes here",
            (
                Node(
                    17,
                    "AudioEqualizer3Band",
                    {"low_gain_dB": -24.0, "low_freq": 250, "mid_gain_dB": 6.0, "high_gain_dB": -12.0},
                    {"audio": (6, "AUDIO")},
                    title="Instead of a separation node",
                ),
                Node(18, "PreviewAudio", {}, {"audio": (17, "AUDIO")}, title="Listen: is it the voice alone?"),
            ),
            320,
            """The song is played, but only the voice should move the mouth.

The equalizer is a makeshift that every ComfyUI has: it lifts the voice a little, drums stay. **Replace it with a node that
separates voices**, for example one with MelBandRoFormer or Demucs (search for *vocals* in the Manager): song in, vocals out to
*driving_audio*.""",
        ),
        replace(prepare(change(LISTEN, {"driving_audio": (17, "AUDIO")}, **HEAR_VOCALS), PREPARE, PREVIEW), title="4  Prepare"),
        replace(sample(SING_OUT, SING), title="5  Sample"),
        replace(save(change(SAVE, filename_prefix="video/wan_s2v_mix")), title="6  Save"),
    ),
)

CORE_NODES = Workflow(
    "wan_s2v_core_nodes",
    "Talking photo, core nodes (Wan S2V)",
    (
        models(
            Node(1, "UNETLoader", {"unet_name": SMALL_FILES["model"], "weight_dtype": "default"}),
            Node(14, "LoraLoaderModelOnly", {"lora_name": SMALL_FILES["lora"]}, {"model": (1, "MODEL")}),
            TEXT_LOADER,
            AUDIO_LOADER,
            Node(4, "VAELoader", {"vae_name": SMALL_FILES["vae"]}),
            note="""Model and VAE may come from any loader, with LoRA, cache and attention nodes behind it. Text and audio encoder
come from ours, which compute as the reference does.""",
        ),
        yours(
            PORTRAIT,
            SPEECH,
            Node(7, "CLIPTextEncode", {"text": PROMPT}, {"clip": (2, "clip")}, title="Prompt"),
            Node(8, "CLIPTextEncode", {"text": NEGATIVE_PROMPT}, {"clip": (2, "clip")}, title="Negative prompt"),
            replace(SWITCH, sources={"model": (1, "MODEL"), "draft_model": (14, "MODEL")}),
        ),
        prepare(
            replace(LISTEN, id=9),
            replace(PREPARE, id=10, sources={"encoded_audio": (9, "encoded_audio"), "image": (5, "IMAGE"), "vae": (4, "VAE")}),
            replace(PREVIEW, id=11, sources={"images": (10, "preview")}),
        ),
        sample(
            replace(
                change(
                    SAMPLE,
                    {"positive": (7, "CONDITIONING"), "negative": (8, "CONDITIONING"), "vae": (4, "VAE"), "plan": (10, "plan")},
                ),
                id=12,
            )
        ),
        save(
            Node(13, "WanS2VDecode", {}, {"clips": (12, "clips")}),
            Node(16, "CreateVideo", {}, {"images": (13, "images"), "audio": (13, "audio"), "fps": (13, "fps")}),
            Node(17, "SaveVideo", {"filename_prefix": "video/wan_s2v", "format": "auto"}, {"video": (16, "VIDEO")}, title="Your video"),
            note="""*Decode Clips* hands over all frames at once. For long speech use *Save Video (Wan S2V)*, which writes clip by
clip.""",
        ),
    ),
)

SPLIT = Node(18, "MultiGPU_WorkUnits", {"max_gpus": 8}, {"model": (15, "model")}, title="All GPUs of this machine")

SEVERAL_GPUS = Workflow(
    "wan_s2v_several_gpus",
    "Talking photo, multi GPU (Wan S2V)",
    (
        models(),
        yours(),
        prepare(),
        sample(
            SPLIT,
            change(SAMPLE, {"model": (18, "MODEL")}),
            note="""ComfyUI's *MultiGPU CFG Split* goes last in front of the sampler. *max_gpus* is the most that work. Nothing
else is to be set: with guidance each prompt gets its GPU, and where there are more GPUs than prompts they share every model
call. A card that would slow the others down is left out.""",
        ),
        save(change(SAVE, filename_prefix="video/wan_s2v_several_gpus")),
    ),
)

WORKFLOWS = (
    QUICK_START,
    QUICK_APP,
    ALL_NODES,
    QUALITY,
    LONG_VIDEO,
    LIVE,
    DIALOGUE,
    SONG,
    MIX,
    POSE,
    FILMED_POSE,
    DUB,
    TWO_PASS,
    CORE_NODES,
    SEVERAL_GPUS,
)
