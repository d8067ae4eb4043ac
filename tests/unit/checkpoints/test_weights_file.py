"""What is said about a file that is no complete weights file."""

import errno

import pytest
import torch
from safetensors.torch import load_file, save_file
from wan_s2v_pack.tests.damaged_files import DAMAGED_FILES, LEGACY_PICKLE, PICKLE, SAFETENSORS, TENSORS, write
from wan_s2v_pack.wan_s2v_model.checkpoints.file_format import CheckpointError
from wan_s2v_pack.wan_s2v_model.checkpoints.weights_file import reading, require_tensors


def load(path):
    with reading(path):
        contents = load_file(path) if path.suffix in (".safetensors", ".sft") else torch.load(path, weights_only=True)
    return require_tensors(contents, path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("file_name", DAMAGED_FILES)
def test_message_says_what_the_file_is_and_what_to_do(file_name, tmp_path, capsys):
    _, words, advice = DAMAGED_FILES[file_name]
    with pytest.raises(CheckpointError) as caught:
        load(write(tmp_path, file_name))
    message = str(caught.value)
    assert message.startswith(f"{file_name} is damaged or holds no weights ({words}")
    assert advice in message.partition("). ")[2]
    assert "\n" not in message
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("file_name", "data"),
    [("good.safetensors", SAFETENSORS), ("good.sft", SAFETENSORS), ("good.pth", PICKLE), ("good.bin", LEGACY_PICKLE)],
)
def test_good_files_are_read(file_name, data, tmp_path):
    path = tmp_path / file_name
    path.write_bytes(data)
    tensors = load(path)
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in tensors)


@pytest.mark.parametrize("word", ["state_dict", "model", "module"])
def test_tensors_under_one_word_are_read(word, tmp_path):
    """Before, the audio encoder's loader refused such a file as one from training; ComfyUI's reader, for the others, takes the word off."""
    path = tmp_path / "model.pth"
    torch.save({word: TENSORS}, path)
    assert load(path).keys() == TENSORS.keys()


def test_file_without_tensors_is_left_to_the_loaders(tmp_path):
    save_file({}, tmp_path / "none.safetensors")
    assert load(tmp_path / "none.safetensors") == {}


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.EACCES, "Permission denied"), "model.pth cannot be read: Permission denied. Check the file and its disk."),
        (OSError(), "model.pth cannot be read: the disk fails. Check the file and its disk."),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "model.pth does not fit into main memory. Close other"),
        (KeyError("F99"), "model.pth is damaged or holds no weights (its contents cannot be read). Download the file again."),
        (RuntimeError("internal: 3 != 4\n at 0x7f"), "model.pth is damaged or holds no weights (its contents cannot be read). Download"),
    ],
)
def test_errors_of_the_readers_become_words(error, message, tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(PICKLE)
    with pytest.raises(CheckpointError) as caught, reading(path):
        raise error
    assert str(caught.value).startswith(message)
    assert caught.value.__cause__ is error


def test_file_that_has_gone(tmp_path):
    with (
        pytest.raises(CheckpointError, match=r"gone\.pth cannot be read: No such file or directory\. Check the file"),
        reading(tmp_path / "gone.pth"),
    ):
        pytest.fail("nothing to read")


def test_interrupt_passes(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(PICKLE)
    with pytest.raises(KeyboardInterrupt), reading(path):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("contents", "what"),
    [
        ({"a": {"b": torch.zeros(1)}, "c": torch.zeros(1)}, "it holds more than tensors: a; "),
        ({"a": {"b": {"c": torch.zeros(1)}}}, "it holds more than tensors: b; "),
        ({1: torch.zeros(1)}, "it holds more than tensors: 1; "),
        ({"a": 1, "b": 2, "c": 3, "d": 4}, "it holds more than tensors: a, b, c; "),
        ({"x" * 100: 1}, f"it holds more than tensors: {'x' * 37}...; "),
        (torch.zeros(1), "it holds no tensors with names)"),
    ],
)
def test_contents_are_tensors_with_names(contents, what, tmp_path):
    with pytest.raises(CheckpointError) as caught:
        require_tensors(contents, tmp_path / "model.pth")
    assert f"model.pth is damaged or holds no weights ({what}" in str(caught.value)
