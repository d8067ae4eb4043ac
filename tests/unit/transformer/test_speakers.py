"""Several speakers: every token hears that of its region, and is computed once for it."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from wan_s2v_pack.tests.forwards import call
from wan_s2v_pack.wan_s2v_model.constants import HEADS, KEYS
from wan_s2v_pack.wan_s2v_model.transformer.audio_injector import Voice
from wan_s2v_pack.wan_s2v_model.transformer.blocks import Compute, Residual, sdpa
from wan_s2v_pack.wan_s2v_model.transformer.config import S2V_14B
from wan_s2v_pack.wan_s2v_model.transformer.crew import Crew, Halt
from wan_s2v_pack.wan_s2v_model.transformer.model import WanS2VTransformer
from wan_s2v_pack.wan_s2v_model.transformer.speakers import Regions

CPU = torch.device("cpu")
CLOSE = {"atol": 2e-5, "rtol": 1e-4}
FRAMES, ROWS, COLUMNS = 2, 4, 6  # of the tokens of `clip_inputs`


def halves(border=3):
    """Weights of a left and a right speaker, [2, F, rows, columns]."""
    weights = torch.zeros(2, FRAMES, ROWS, COLUMNS)
    weights[0, ..., :border] = weights[1, ..., border:] = 1
    return weights


def moving():
    """The border wanders, and an odd number of tokens is in the first frame."""
    weights = halves(1)
    weights[:, 1] = halves(4)[:, 1]
    weights[0, 0, 0, 1], weights[1, 0, 0, 1] = 1, 0
    return weights


def soft():
    left = torch.linspace(1, 0, COLUMNS).expand(FRAMES, ROWS, COLUMNS)
    return torch.stack([left, 1 - left])


def live():
    """Live-Avatar's rule: the left third hears one, the right third the other, those between hear both, and one token nobody."""
    weights = torch.ones(2, FRAMES, ROWS, COLUMNS)
    weights[0, ..., 4:] = weights[1, ..., :2] = 0
    weights[:, :, 1, 2] = 0
    return weights


@pytest.fixture
def spoken(clip_inputs, noise):
    """Inputs of a clip with two speakers [1, 2, 25, 8, 4F]."""
    first = clip_inputs["audio_embedding"]
    return {**clip_inputs, "audio_embedding": torch.stack([first, noise(*first.shape, seed=40)], dim=1)}


def alone(inputs, speaker):
    """The inputs of a clip in which all hear one of the speakers."""
    return {**inputs, "audio_embedding": inputs["audio_embedding"][:, speaker]}


def inject(transformer, inputs, regions=None, **compute):
    """What the first injector makes of noise: [1, S, dim], and the noise."""
    x = torch.randn(1, FRAMES * ROWS * COLUMNS + 5, 256, generator=torch.Generator().manual_seed(50))
    voices = [
        transformer.audio_injector.project(*transformer.embed_audio(sound, 1.0), torch.float32)
        for sound in ([inputs["audio_embedding"]] if regions is None else inputs["audio_embedding"].unbind(1))
    ]
    hearers = [None] if regions is None else Regions(regions).hearers(CPU)
    stream = Residual(x.clone(), FRAMES * ROWS * COLUMNS, is_own=True)
    pairs = [Voice(*pair) for pair in zip(voices, hearers, strict=True)]
    return transformer.audio_injector(stream, 0, pairs, Compute(**compute)).summed(), x


@pytest.mark.parametrize("weights", [halves(), moving(), soft(), live()], ids=["halves", "moving", "soft", "live"])
def test_a_token_gets_the_weighted_sum_of_what_each_speaker_alone_would_give_it(tiny_transformer, spoken, weights):
    result, x = inject(tiny_transformer, spoken, weights)
    expected = x.clone()
    for speaker in range(2):
        given = inject(tiny_transformer, alone(spoken, speaker))[0] - x
        expected[:, :-5] += given[:, :-5] * weights[speaker].reshape(1, -1, 1)
    torch.testing.assert_close(result, expected, **CLOSE)
    deaf = (weights.sum(0) == 0).flatten()
    assert torch.equal(result[0, :-5][deaf], x[0, :-5][deaf])
    assert torch.equal(result[:, -5:], x[:, -5:]), "reference and motion hear nobody"


def test_one_speaker_everywhere_gives_the_same_bits(tiny_transformer, clip_inputs):
    regions = Regions(torch.ones(1, FRAMES, ROWS, COLUMNS))
    spoken = {**clip_inputs, "audio_embedding": clip_inputs["audio_embedding"][:, None]}
    assert torch.equal(call(tiny_transformer, **spoken, regions=regions), call(tiny_transformer, **clip_inputs))


def test_equal_speakers_are_as_one(tiny_transformer, clip_inputs):
    sound = clip_inputs["audio_embedding"]
    both = {**clip_inputs, "audio_embedding": torch.stack([sound, sound], dim=1)}
    for weights in (halves(), moving(), soft()):
        torch.testing.assert_close(call(tiny_transformer, **both, regions=Regions(weights)), call(tiny_transformer, **clip_inputs), **CLOSE)


@pytest.mark.parametrize(
    ("weights", "tokens"),
    [(halves(), 48), (halves(1), 48), (moving(), 2 * (16 + 20)), (soft(), 80), (live(), 2 * (16 + 16))],
    ids=["halves", "unequal", "moving", "soft", "live"],
)
def test_tokens_are_computed_for_those_they_hear_alone(tiny_transformer, spoken, weights, tokens):
    asked = []

    def count(q, k, v, heads, **_):
        asked.append(q.shape[0] * q.shape[1])
        return sdpa(q, k, v, heads)

    inject(tiny_transformer, spoken, weights, attention=count)
    assert sum(asked) == tokens


def test_a_batch_is_as_single_calls(tiny_transformer, spoken):
    silent = {**spoken, "audio_embedding": torch.zeros_like(spoken["audio_embedding"])}
    regions = Regions(moving())
    both = {name: torch.cat([value, silent[name]]) for name, value in spoken.items()}
    expected = torch.cat([call(tiny_transformer, **inputs, regions=regions) for inputs in (spoken, silent)])
    torch.testing.assert_close(call(tiny_transformer, **both, regions=regions), expected, **CLOSE)


@pytest.mark.parametrize("weights", [halves(), halves(1), moving(), soft(), live()], ids=["halves", "unequal", "moving", "soft", "live"])
@pytest.mark.parametrize(("size", "over"), [(2, KEYS), (3, HEADS), (8, KEYS)])
def test_many_gpus_give_what_one_gives(tiny_transformer, spoken, weights, size, over):
    crew, regions = Crew([CPU] * size, halt=Halt(), over=over), Regions(weights)
    try:
        together = crew.run(lambda member: call(tiny_transformer, **spoken, regions=regions, team=member))
    finally:
        crew.close()
    torch.testing.assert_close(together, call(tiny_transformer, **spoken, regions=regions), **CLOSE)


def test_regions_of_some_latents():
    regions = Regions(moving())
    assert torch.equal(regions.of_latents([1, 1]).weights[:, 0], moving()[:, 1])
    assert regions.hearers(CPU) is regions.hearers(CPU), "found once"


@pytest.mark.parametrize(("regions", "most"), [("halves", 0.0002), ("everywhere", 0.03)])
def test_two_speakers_cost_next_to_nothing_at_full_size(regions, most):
    """Products of a later clip at 832x480, on the device without memory."""
    frames, height, width = 20, 60, 104
    meta = {"device": "meta", "dtype": torch.bfloat16}
    transformer = WanS2VTransformer(S2V_14B, **meta)
    weights = torch.ones(2, frames, height // 2, width // 2)
    if regions == "halves":
        weights[0, ..., : width // 4] = weights[1, ..., width // 4 :] = 0

    def products(speakers, **regions):
        clip, picture = torch.empty(1, 16, frames, height, width, **meta), torch.empty(1, 16, 1, height, width, **meta)
        inputs = {"ref_latents": picture, "pose_latents": clip, "motion_latents": torch.empty(1, 16, 19, height, width, **meta)}
        inputs["context"] = torch.empty(1, 512, 4096, **meta)
        inputs["audio_embedding"] = torch.empty(1, *speakers, 25, 1024, 153, **meta)
        with FlopCounterMode(display=False) as counter:
            call(transformer, clip, torch.tensor([731.0]), **inputs, **regions)
        return counter.get_total_flops()

    assert 1 < products([2], regions=Regions(weights)) / products([]) < 1 + most
