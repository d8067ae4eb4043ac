"""Keys and values that stay, as they are or in float8."""

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.kernels.float8 import FLOAT8, Float8Heads
from wan_s2v_pack.wan_s2v_model.transformer.rings import KEYS, VALUES, Desks, OnDevice, OnHost, Placement, Remembered, Scales, Shape, write

SHAPE = Shape(sink=2, ring=6, dim=256)
CPU = torch.device("cpu")


@pytest.fixture
def scales(noise):
    return Scales.of_layer(torch.tensor([0.02, 0.03]), noise(1, 2, 256, seed=1))


def test_what_is_written_is_read(noise, scales):
    given = noise(1, 3, 256)
    for dtype, how, tolerance in ((torch.float32, None, 0), (FLOAT8, scales, 0.05)):
        memory = SHAPE.empty(8, dtype, CPU)
        keys = Remembered(memory, slice(2, 5), 5, how)
        keys.take_keys(given)
        keys.take_values(given)
        q = noise(1, 1, 256, seed=3)
        k, v = keys.ask(q, lambda q, k, v, heads: (k, v), 2, only_video=False)
        assert k.shape == (1, 5, 256)
        for seen in (k, v):
            assert float((seen[:, 2:] - given).norm() / given.norm()) <= tolerance
            assert not seen[:, :2].any()


def test_queries_in_float8_get_keys_and_values_in_float8(noise, scales):
    memory = SHAPE.empty(8, FLOAT8, CPU)
    write(memory, VALUES, slice(None), noise(1, 8, 256), scales)
    q = Float8Heads.rounded(noise(1, 1, 2, 128), scales.keys)
    k, v = Remembered(memory, slice(0), 8, scales).ask(q, lambda q, k, v, heads: (k, v), 2, only_video=False)
    assert (k.values.dtype, v.values.dtype, v.scale.shape) == (FLOAT8, FLOAT8, (1, 2))


def test_values_beyond_those_of_the_sink_have_room(noise, scales):
    memory, loud = SHAPE.empty(8, FLOAT8, CPU), 8 * noise(1, 8, 256, seed=2)
    write(memory, VALUES, slice(None), loud, scales)
    read = Float8Heads(memory[VALUES].unflatten(-1, (2, -1)), scales.values).to(torch.float32).flatten(2)
    assert float((read - loud).norm() / loud.norm()) < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, FLOAT8])
def test_main_memory_keeps_what_the_device_would(noise, dtype):
    desks = Desks(SHAPE, 3, dtype, CPU)
    stores = OnDevice(SHAPE, 3, dtype, CPU), OnHost(SHAPE, dtype, desks)
    for store in stores:
        for layer in range(3):
            store.set_sink(layer, noise(2, 1, 2, 256, seed=layer).to(dtype))
    for seen in (5, 8, 8):
        for layer in range(3):
            found = []
            for store in stores:
                memory = store.open(layer, seen)
                memory[:, :, seen - 3 : seen] = noise(2, 1, 3, 256, seed=10 * seen + layer).to(dtype)
                found.append(memory[:, :, :seen].float())
                store.close(layer, slice(seen - 3, seen))
            assert torch.equal(*found)
    for store in stores:
        store.clear()
        assert not store.open(0, 8)[:, :, 2:].float().any()


def test_placement_says_its_type():
    assert Placement().dtype(torch.bfloat16) == torch.bfloat16
    assert Placement(float8=True).dtype(torch.bfloat16) == FLOAT8
    assert KEYS != VALUES
