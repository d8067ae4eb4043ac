"""Features stay in memory when short, and in a mapped file without a name when long."""

import errno
import gc
import logging
import os

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.audio import feature_file
from wan_s2v_pack.wan_s2v_model.audio.feature_file import collect_features
from wan_s2v_pack.wan_s2v_model.audio.features import gather_frames, layer_at_fps, num_audio_frames, num_audio_rows

NUM_HIDDEN = 500  # 10 s
NUM_FRAMES = num_audio_frames(num_audio_rows(NUM_HIDDEN))


@pytest.fixture
def layers(noise):
    return [noise(NUM_HIDDEN, 6, seed=seed) for seed in range(4)]


@pytest.fixture
def expected(layers):
    return torch.stack([layer_at_fps(layer) for layer in layers])


@pytest.fixture
def all_are_long(monkeypatch):
    monkeypatch.setattr(feature_file, "FLOAT32_SECONDS", 1)


def test_short_sound_stays_in_float32_in_memory(layers, expected, tmp_path):
    features = collect_features(iter(layers), NUM_FRAMES, tmp_path)
    assert features.dtype == torch.float32
    assert torch.equal(features, expected)
    assert features.is_contiguous()
    assert list(tmp_path.iterdir()) == []


def test_ten_minutes_are_short_and_one_frame_more_is_long(layers, tmp_path):
    dtypes = [collect_features(layers, num_frames, tmp_path).dtype for num_frames in (9600, 9601)]
    assert dtypes == [torch.float32, torch.float16]


@pytest.mark.usefixtures("all_are_long")
def test_long_sound_is_the_same_rounded_to_half(layers, expected, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="wan_s2v")
    features = collect_features(iter(layers), NUM_FRAMES, tmp_path)
    assert torch.equal(features, expected.half())
    assert "half precision" in caplog.text
    slots = [3, None, NUM_FRAMES - 1]
    assert torch.equal(gather_frames(features, slots), gather_frames(expected.half().float(), slots))


@pytest.mark.usefixtures("all_are_long")
def test_a_memory_that_is_written_again_for_each_layer_is_enough(layers, expected, tmp_path):
    def one_after_the_other():
        shared = torch.empty_like(layers[0])
        for layer in layers:
            yield shared.copy_(layer)

    assert torch.equal(collect_features(one_after_the_other(), NUM_FRAMES, tmp_path), expected.half())


@pytest.mark.usefixtures("all_are_long")
def test_values_beyond_half_precision_are_its_largest(layers, tmp_path):
    layers[0][:] = 1e6
    layers[1][:] = -1e6
    features = collect_features(layers, NUM_FRAMES, tmp_path)
    assert features[0].unique().tolist() == [65504]
    assert features[1].unique().tolist() == [-65504]


@pytest.mark.usefixtures("all_are_long")
def test_the_file_is_made_in_the_folder_and_gone_with_the_tensor(layers, tmp_path):
    folder = tmp_path / "not yet there"
    features = collect_features(layers, NUM_FRAMES, folder)
    assert os.name == "nt" or list(folder.iterdir()) == []  # it never had a name, or has lost it
    assert mapped(folder)
    kept = features[0]
    del features
    gc.collect()
    assert mapped(folder)
    del kept
    gc.collect()
    assert not mapped(folder)
    assert list(folder.iterdir()) == []


def mapped(folder):
    """Whether this process maps a file of the folder; where that cannot be asked, whether it holds one."""
    try:
        with open("/proc/self/maps", encoding="utf-8") as maps:
            return str(folder) in maps.read()
    except FileNotFoundError:
        pytest.skip("this system has no /proc")


@pytest.mark.usefixtures("all_are_long")
def test_cancelling_leaves_no_file(layers, tmp_path):
    class Cancelled(BaseException):
        pass

    def cancelled():
        yield from layers[:2]
        raise Cancelled

    with pytest.raises(Cancelled):
        collect_features(cancelled(), NUM_FRAMES, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("all_are_long")
def test_full_disk_says_what_to_do(layers, tmp_path, monkeypatch):
    class FullDisk:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write(self, data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(feature_file.tempfile, "TemporaryFile", lambda dir: FullDisk())
    with pytest.raises(OSError, match=r"No space left.*Free some GB there, or choose a shorter `duration`") as caught:
        collect_features(layers, NUM_FRAMES, tmp_path)
    assert caught.value.errno == errno.ENOSPC
