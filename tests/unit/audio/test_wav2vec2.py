"""wav2vec2 in pieces gives the numbers of transformers' own forward, in memory for little more than keys and values."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from wan_s2v_pack.wan_s2v_model.audio import wav2vec2 as module
from wan_s2v_pack.wan_s2v_model.audio.features import hidden_states, normalise
from wan_s2v_pack.wan_s2v_model.audio.wav2vec2 import CONTEXT_FRAMES, FRONT_PIECE, ROW_PIECE, hidden_layers, working_bytes

HOP, WINDOW = 320, 400  # samples between two frames, and under one
CLOSE = 1e-11  # in float64: pieces add up in other blocks, and a random model makes ten times as much of the last bits
NUM_LAYERS = 3


def make(randomised, norm="layer", is_stable=True, **changes):
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    sizes = {"hidden_size": 32, "num_hidden_layers": NUM_LAYERS, "num_attention_heads": 2, "intermediate_size": 64, "conv_dim": (8,) * 7}
    positions = {"num_conv_pos_embeddings": 128, "num_conv_pos_embedding_groups": 4}
    config = {**sizes, **positions, "conv_bias": True, "feat_extract_norm": norm, "do_stable_layer_norm": is_stable, **changes}
    return randomised(Wav2Vec2Model(Wav2Vec2Config(attn_implementation="sdpa", **config))).train(False)


VARIANTS = {
    "large": {},
    "norm over the whole sound": {"norm": "group"},
    "norms behind": {"norm": "group", "is_stable": False},
    "norms behind, front end in pieces": {"is_stable": False},
    "adapters": {"adapter_attn_dim": 8},
    "odd kernel of the positions": {"num_conv_pos_embeddings": 15},
    "other front end": {"conv_kernel": (7, 5, 3), "conv_stride": (6, 4, 5), "conv_dim": (8,) * 3},
}


@pytest.fixture(scope="module")
def wav2vec2(randomised):
    return make(randomised)


@pytest.fixture(scope="module")
def in_float64(randomised):
    return make(randomised).double()


@torch.no_grad()
def by_transformers(model, waveform):
    output = model(waveform[None], output_hidden_states=True)
    return torch.cat([*output.hidden_states[:-1], output.last_hidden_state])


def samples(frames, more=0):
    return (frames - 1) * HOP + WINDOW + more


# Same numbers


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "other front end"])
@pytest.mark.parametrize("num_samples", [samples(1), 16_000, samples(FRONT_PIECE, HOP - 1)])
def test_one_piece_is_the_same_to_the_last_bit(randomised, noise, variant, num_samples):
    model, waveform = make(randomised, **VARIANTS[variant]), noise(num_samples)
    assert torch.equal(hidden_states(model, waveform), by_transformers(model, waveform))


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_the_same_in_small_pieces(randomised, noise, variant, monkeypatch):
    monkeypatch.setattr(module, "FRONT_PIECE", 7)
    monkeypatch.setattr(module, "ROW_PIECE", 13)
    model, waveform = make(randomised, **VARIANTS[variant]).double(), noise(50_000).double()
    torch.testing.assert_close(hidden_states(model, waveform), by_transformers(model, waveform), atol=CLOSE, rtol=0)


BORDERS = [samples(piece + frames, more) for piece in (FRONT_PIECE, ROW_PIECE) for frames in (0, 1, 2) for more in (-1, 0, HOP - 1)]


@pytest.mark.parametrize("num_samples", [*BORDERS, samples(ROW_PIECE + 70), samples(2 * ROW_PIECE + 1)])
def test_lengths_around_the_borders_of_pieces(in_float64, noise, num_samples):
    waveform = normalise(noise(num_samples).double())
    torch.testing.assert_close(hidden_states(in_float64, waveform), by_transformers(in_float64, waveform), atol=CLOSE, rtol=0)


def test_pieces_in_float32_are_as_near_to_the_truth_as_the_whole(wav2vec2, in_float64, noise):
    waveform = normalise(noise(samples(2 * ROW_PIECE + 1)))
    truth = by_transformers(in_float64, waveform.double())
    errors = [(states - truth).abs().max() for states in (hidden_states(wav2vec2, waveform), by_transformers(wav2vec2, waveform))]
    assert errors[0] <= 1.5 * errors[1]


@pytest.mark.parametrize("frames", [29, 30, 31, 61, 200])
def test_windows_whose_context_is_the_whole_sound_are_exact(in_float64, noise, monkeypatch, frames):
    monkeypatch.setattr(module, "WINDOW_FRAMES", 30)
    monkeypatch.setattr(module, "ROW_PIECE", 16)
    waveform = noise(samples(frames)).double()
    layers = torch.stack([layer.clone() for layer in hidden_layers(in_float64, waveform, context=frames)])
    torch.testing.assert_close(layers, by_transformers(in_float64, waveform), atol=CLOSE, rtol=0)


def test_windows_hear_their_context_and_no_more(wav2vec2, noise, monkeypatch):
    monkeypatch.setattr(module, "WINDOW_FRAMES", 30)
    waveform = noise(samples(400))
    changed = waveform.clone()
    changed[-3200:] = 0
    first, second = ([layer.clone() for layer in hidden_layers(wav2vec2, sound, context=20)] for sound in (waveform, changed))
    spared = 400 - 12 - 64  # rows in front of what the front end and the positions spread
    for layer in range(1 + NUM_LAYERS):
        spread = layer * (30 + 20)  # a layer carries it over one window and its context
        assert torch.equal(first[layer][: spared - spread], second[layer][: spared - spread])
        assert not torch.equal(first[layer][spared - 1 :], second[layer][spared - 1 :])


def test_no_graph_is_built(wav2vec2, noise):
    assert not any(layer.requires_grad for layer in hidden_layers(wav2vec2, noise(800).requires_grad_()))


def test_too_short_a_sound_has_no_frames(wav2vec2, noise):
    assert [layer.shape for layer in hidden_layers(wav2vec2, noise(WINDOW - 1))] == [(0, 32)] * (1 + NUM_LAYERS)


# Reports


@pytest.mark.parametrize("context", [None, 20])
def test_reports_rise_to_one(wav2vec2, noise, monkeypatch, context):
    monkeypatch.setattr(module, "ROW_PIECE", 10)
    monkeypatch.setattr(module, "WINDOW_FRAMES", 25)
    shares = []
    for _ in hidden_layers(wav2vec2, noise(samples(100)), context, shares.append):
        pass
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert len(shares) >= NUM_LAYERS * 10


@pytest.mark.parametrize("norm", ["layer", "group"])
def test_a_report_is_asked_for_within_every_piece(randomised, noise, monkeypatch, norm):
    """Whoever cancels raises in the report: the next piece must not be computed."""
    monkeypatch.setattr(module, "ROW_PIECE", 10)
    model, calls = make(randomised, norm), []
    model.encoder.layers[0].feed_forward.register_forward_hook(lambda *_: calls.append(1))

    class Cancelled(BaseException):
        pass

    def report(share):
        if len(calls) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        list(hidden_layers(model, noise(samples(100)), None, report))
    assert len(calls) == 2


def piecewise(model):
    """Modules that every frame of a sound passes before any layer is done with it."""
    layer = model.encoder.layers[0]
    return {
        "front end": model.feature_projection,
        "positions": model.encoder.pos_conv_embed,
        "keys": layer.attention.k_proj,
        "values": layer.attention.v_proj,
    }


@pytest.mark.parametrize("part", ["front end", "positions", "keys", "values"])
def test_a_cancel_is_heard_within_every_piece_before_a_layer_is_done(wav2vec2, noise, monkeypatch, part):
    """Of an hour of sound all pieces were computed first: a cancel was heard after a minute."""
    monkeypatch.setattr(module, "ROW_PIECE", 10)
    monkeypatch.setattr(module, "FRONT_PIECE", 10)
    calls = []
    hook = piecewise(wav2vec2)[part].register_forward_hook(lambda *_: calls.append(1))

    class Cancelled(BaseException):
        pass

    def report(share):
        if len(calls) == 2:
            raise Cancelled

    try:
        with pytest.raises(Cancelled):
            list(hidden_layers(wav2vec2, noise(samples(100)), None, report))
    finally:
        hook.remove()
    assert len(calls) == 2


# Memory


class LiveBytes(TorchDispatchMode):
    """Most bytes that results of operations have held at once, and the largest one."""

    def __init__(self):
        super().__init__()
        self.now, self.peak, self.largest, self.seen = 0, 0, 0, set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return result

    def _add(self, storage):
        key, size = storage._cdata, storage.nbytes()
        if key not in self.seen:
            self.seen.add(key)
            self.now += size
            self.peak, self.largest = max(self.peak, self.now), max(self.largest, size)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key, size):
        self.seen.discard(key)
        self.now -= size


def peak_bytes(model, frames, context=None):
    waveform = torch.zeros(samples(frames))
    with LiveBytes() as live:
        live.seen.add(waveform.untyped_storage()._cdata)
        for _ in hidden_layers(model, waveform, context):
            pass
    return live.peak, live.largest


@pytest.fixture(scope="module")
def wide(randomised):
    return make(randomised, hidden_size=64, intermediate_size=256, conv_dim=(32,) * 7, num_hidden_layers=1)


def test_memory_per_frame_is_that_of_hidden_states_keys_and_values(wide):
    short, long = 2 * ROW_PIECE, 4 * ROW_PIECE
    growth = (peak_bytes(wide, long)[0] - peak_bytes(wide, short)[0]) / (long - short)
    assert growth == pytest.approx(3 * 64 * 4, rel=0.05)


def test_no_tensor_is_longer_than_the_sound(wide):
    """Neither a mask nor scores of all frames against all, which would be 8,000 x 8,000."""
    assert peak_bytes(wide, 8000)[1] < 8000**2 / 10


@pytest.mark.parametrize("frames", [300, 8000])
def test_estimated_memory_is_the_measured_one(wide, frames):
    estimate, measured = working_bytes(wide.config, frames, 4), peak_bytes(wide, frames)[0] + samples(frames) * 4
    assert measured <= estimate <= 1.5 * measured  # a norm copies what is transposed, which this cannot see


def test_estimate_for_an_hour_with_the_published_model(randomised):
    config = make(randomised).config
    config.hidden_size, config.intermediate_size, config.conv_dim = 1024, 4096, (512,) * 7
    hour = 3600 * 50
    assert working_bytes(config, hour, 4) == pytest.approx(2.55e9, rel=0.05)
    in_windows = [working_bytes(config, hours * hour, 4, CONTEXT_FRAMES) for hours in (1, 2)]
    assert in_windows[0] < 1.1e9
    assert in_windows[1] - in_windows[0] == hour * HOP * 4  # the sound itself
