"""Facts of the training that others are computed from."""

import hashlib

from wan_s2v_pack.wan_s2v_model import constants
from wan_s2v_pack.wan_s2v_model.transformer.config import S2V_14B, WanS2VConfig


def test_motion_history():
    assert (constants.MOTION_FRAMES, constants.MOTION_LATENTS, constants.DROPPED_FRAMES, constants.START_FRAMES) == (73, 19, 3, 6)
    assert constants.MOTION_BUCKETS == (1, 2, 16)


def test_rates():
    assert (constants.SAMPLE_RATE_HZ, constants.WAV2VEC_HZ, constants.AUDIO_HZ, constants.VIDEO_FPS) == (16_000, 50, 30, 16)


def test_defaults_are_those_of_the_reference():
    assert (constants.DEFAULT_STEPS, constants.DEFAULT_SHIFT, constants.DEFAULT_GUIDANCE_SCALE) == (40, 3.0, 4.5)
    assert constants.DEFAULT_FRAMES_PER_CLIP == 80


def test_negative_prompt_is_the_model_s_own():
    digest = hashlib.sha256(constants.NEGATIVE_PROMPT.encode()).hexdigest()  # of the text in the reference's configuration
    assert digest == "98afffdba82fbb1f87767b2e0d022cb2e4960f400d98c617f9b82bc707d09218"


def test_config_of_the_14b_model():
    assert (S2V_14B.num_heads, S2V_14B.head_dim, S2V_14B.eps) == (40, 128, 1e-6)
    assert len(S2V_14B.audio_inject_layers) == 12
    assert (S2V_14B.text_len, S2V_14B.freq_dim, S2V_14B.num_audio_layers, S2V_14B.num_audio_tokens) == (512, 256, 25, 4)


def test_metadata_names_what_shapes_do_not_tell():
    config = WanS2VConfig(dim=256, ffn_dim=512, num_layers=4, text_dim=64, audio_dim=32, audio_inject_layers=(0, 2, 3))
    assert config.to_metadata() == {"text_dim": 64, "audio_dim": 32, "audio_inject_layers": [0, 2, 3]}
