"""Facts fixed by the training of Wan2.2-S2V-14B, with units. Each derived value is computed from the ones above it."""

SAMPLE_RATE_HZ = 16_000  # what wav2vec2 hears
WAV2VEC_HZ = 50  # wav2vec2 hidden states per second (one per 320 samples)
AUDIO_HZ = 30  # rate to which the hidden states are resampled
VIDEO_FPS = 16  # rate of the generated video, where nothing else is said; audio features are picked at this rate
LIVE_FPS = 25  # rate of Live-Avatar's LoRA
FRAME_RATES = (VIDEO_FPS, LIVE_FPS)

SPATIAL_STRIDE = 8  # pixels per latent, both axes
TEMPORAL_STRIDE = 4  # frames per latent; the first latent of a sequence is one frame
PATCH_SIZE = (1, 2, 2)  # latents per token (time, row, column)
PIXELS_PER_TOKEN = SPATIAL_STRIDE * PATCH_SIZE[1]
SIZE_MULTIPLE = 64  # px; the 4x motion bucket pools 8 latents, so other sizes lose rows of far history

LATENT_CHANNELS = 16
NUM_AUDIO_LAYERS = 25  # wav2vec2-large: the input of layer 1 and the output of each of its 24 layers
HEAD_DIM = 128

MOTION_FRAMES = 73  # frames of history that a clip sees
MOTION_LATENTS = (MOTION_FRAMES + 3) // TEMPORAL_STRIDE
DROPPED_FRAMES = TEMPORAL_STRIDE - 1  # frames of clip 0 that the reference latent spoils in the causal decoder
START_FRAMES = 6  # history frames replaced by the picture when the video starts from it

MOTION_BUCKETS = (1, 2, 16)  # latents pooled by the 1x, 2x and 4x motion convolutions, newest first
REFERENCE_TIME = 30  # RoPE time of the reference picture
NEAR_MOTION_TIME = -1  # RoPE time of the 1x bucket
MIDDLE_MOTION_TIME = -3  # RoPE time of the 2x bucket
FAR_MOTION_TIMES = (-19, -14, -9, -4)  # RoPE times of the four groups of the 4x bucket

KEYS, HEADS = "keys", "heads"  # what GPUs that share a model call exchange

TRAIN_TIMESTEPS = 1000
DEFAULT_STEPS = 40
DEFAULT_SHIFT = 3.0
DEFAULT_GUIDANCE_SCALE = 4.5
DEFAULT_FRAMES_PER_CLIP = 80
LIVE_FRAMES_PER_CLIP = 48
DEFAULT_SEED = 42

NEGATIVE_PROMPT = (
    "画面模糊，最差质量，画面模糊，细节模糊不清，情绪激动剧烈，手快速抖动，字幕，丑陋的，残缺的，多余的手指，画得不好的手部，"  # noqa: RUF001
    "画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，背景人很多，倒着走"  # noqa: RUF001
)

assert sum(MOTION_BUCKETS) == MOTION_LATENTS
