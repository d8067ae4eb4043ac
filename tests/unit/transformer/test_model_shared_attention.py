"""The self attention of the first block is computed once for all that it is the same for, and for nothing else."""

import pytest
import torch
from wan_s2v_pack.tests.forwards import call
from wan_s2v_pack.wan_s2v_model.transformer.blocks import sdpa
from wan_s2v_pack.wan_s2v_model.transformer.model import SharedSelfAttention

CONDITIONS = ("context", "audio_embedding")


@pytest.fixture
def asked():
    """How many entries were computed, call by call."""
    return []


@pytest.fixture
def shared(asked):
    """A SharedSelfAttention whose output tells the number of the computation."""
    attention = SharedSelfAttention()

    def ask(*inputs):
        def compute(batch):
            asked.append(batch)
            return torch.full((batch, 2, 1), float(len(asked)))

        return attention(inputs, compute)

    return ask


def test_same_inputs_are_computed_once(shared, asked):
    x, t = torch.rand(1, 3), torch.ones(1)
    outputs = [shared(x, t, None) for _ in range(3)]
    assert asked == [1]
    assert all(torch.equal(output, torch.ones(1, 2, 1)) for output in outputs)


@pytest.mark.parametrize(
    "change",
    [
        lambda x, t: (x + 1, t, None),
        lambda x, t: (x, t + 1, None),
        lambda x, t: (x, t, t),
        lambda x, t: (x, None, t),
        lambda x, t: (x.double(), t, None),
        lambda x, t: (x[:, :2], t, None),
    ],
    ids=["x", "time", "one more", "another place", "type", "size"],
)
def test_other_inputs_are_computed_again(shared, asked, change):
    x, t = torch.ones(1, 3), torch.ones(1)
    shared(x, t, None)
    assert float(shared(*change(x, t))[0, 0, 0]) == 2
    assert float(shared(x, t, None)[0, 0, 0]) == 3, "only the latest is kept"


def test_inputs_that_are_changed_in_place_are_computed_again(shared, asked):
    x = torch.ones(1, 3)
    shared(x)
    x.add_(1)
    shared(x)
    assert asked == [1, 1]


def test_batch_of_equals_is_computed_once(shared, asked):
    x = torch.rand(1, 3)
    assert torch.equal(shared(x.repeat(2, 1)), torch.ones(2, 2, 1))
    assert torch.equal(shared(x), torch.ones(1, 2, 1))
    assert asked == [1]


def test_batch_of_different_entries_is_computed_whole(shared, asked):
    assert torch.equal(shared(torch.ones(2, 3), torch.tensor([1.0, 2.0])), torch.ones(2, 2, 1))
    assert asked == [2]


# In the transformer


@pytest.fixture
def run(tiny_transformer, clip_inputs):
    """Run the transformer with changed inputs; return its output and the number of self attentions in the first block."""

    def run_with(shared_attention=None, **changes):
        count = 0

        def count_and_attend(q, k, v, heads, transformer_options):
            nonlocal count
            count += transformer_options["block_index"] == 0 and q.shape == k.shape
            return sdpa(q, k, v, heads)

        inputs = {name: changes.get(name, tensor) for name, tensor in clip_inputs.items()}
        return call(tiny_transformer, **inputs, attention=count_and_attend, shared_attention=shared_attention), count

    return run_with


def test_conditionings_share_it_and_get_the_same_bits(run, clip_inputs):
    shared = SharedSelfAttention()
    run(shared)
    for name in CONDITIONS:
        other = {name: clip_inputs[name] * 0.5}
        (expected, one), (output, none) = run(**other), run(shared, **other)
        assert (one, none) == (1, 0)
        assert torch.equal(output, expected)


@pytest.mark.parametrize("name", ["x", "timestep", "ref_latents", "motion_latents", "pose_latents"])
def test_everything_else_makes_another(run, clip_inputs, name):
    shared = SharedSelfAttention()
    run(shared)
    for other in ({name: clip_inputs[name] * 0.5}, {name: None} if name.startswith(("motion", "pose")) else {}):
        (expected, _), (output, count) = run(**other), run(shared, **other)
        assert count == 1
        assert torch.equal(output, expected)


def test_conditionings_in_one_batch(run, clip_inputs):
    both = {name: torch.cat([tensor, tensor * (0.5 if name in CONDITIONS else 1)]) for name, tensor in clip_inputs.items()}
    (expected, _), (output, count) = run(**both), run(SharedSelfAttention(), **both)
    assert count == 1
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=2e-5)
