"""What strangers made is read within limits, and said in few words."""

import json
import math
import os
import sys

import pytest
from wan_s2v_pack.wan_s2v_model.untrusted import (
    MOST_DEPTH,
    MOST_TEXT,
    NotPlainError,
    TooLargeError,
    cut,
    layers_problem,
    open_plain,
    plain_name,
    printable,
    read_json,
    read_plain,
    require_plain,
    shown,
    text_problem,
    without_markup,
)

needs_fifos = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")


@needs_fifos
@pytest.mark.parametrize("through_links", [True, False])
def test_a_pipe_is_no_file_and_nobody_waits_for_it(tmp_path, through_links):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(NotPlainError, match="no plain file"):
        open_plain(tmp_path / "pipe", through_links=through_links)


@pytest.mark.parametrize("through_links", [True, False])
def test_a_folder_is_no_file(tmp_path, through_links):
    with pytest.raises(NotPlainError):
        open_plain(tmp_path, through_links=through_links)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_links_are_followed_where_they_may(tmp_path):
    (tmp_path / "file").write_bytes(b"text")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_plain(tmp_path / "link", 10, through_links=True) == b"text"
    with pytest.raises(NotPlainError):
        read_plain(tmp_path / "link", 10, through_links=False)
    with pytest.raises(NotPlainError):
        require_plain(tmp_path / "link")


@pytest.mark.parametrize("through_links", [True, False])
def test_what_is_not_there_is_said_as_ever(tmp_path, through_links):
    require_plain(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError):
        open_plain(tmp_path / "nothing", through_links=through_links)


def test_a_file_is_read_within_its_limit(tmp_path):
    (tmp_path / "file").write_bytes(b"12345")
    assert read_plain(tmp_path / "file", 5, through_links=False) == b"12345"
    with pytest.raises(TooLargeError, match="5 bytes, and such a file at most 4"):
        read_plain(tmp_path / "file", 4, through_links=False)


def test_json_is_read():
    content = {"a": [1, 2.5, None, {"b": "ü"}]}
    assert read_json(json.dumps(content)) == content
    assert read_json(json.dumps(content).encode()) == content


@pytest.mark.parametrize(
    "text",
    [
        "NaN",
        "[Infinity]",
        '{"a": -Infinity}',
        "[1e999]",
        "-1e999",
        "[" * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 90_000,
        "9" * 5000,
        "",
    ],
)
def test_json_that_no_program_writes(text):
    with pytest.raises(ValueError):  # noqa: PT011 - json's own words, or ours
        read_json(text)


def test_what_a_server_repeats_may_hold_numbers_without_end():
    assert read_json("[1e999, -Infinity, 2.5]", finite=False) == [math.inf, -math.inf, 2.5]


def test_json_is_as_deep_as_a_bracket_less_than_too_deep():
    read_json("[" * MOST_DEPTH + "]" * MOST_DEPTH)
    with pytest.raises(ValueError, match="brackets"):
        read_json("[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1))


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/b", "a\\b", "..", ".", "", None, 3, ["x"], "c:x", "a\0b", "a\nb", "x" * 256])
def test_names_that_leave_their_folder(name):
    assert plain_name(name) is None


def test_a_plain_name():
    assert plain_name("model-00001-of-00002.safetensors") == "model-00001-of-00002.safetensors"


def test_there_are_no_more_layers_than_tensors():
    assert layers_problem(40, 1260) is None
    assert layers_problem(41, 40) == "it numbers its layers up to 40, but holds 40 tensors"
    assert layers_problem(1001, 100_000) is not None
    assert layers_problem(2, {"a": 1}) is not None


def test_texts():
    assert text_problem("prompt", "Ein Bär 🐻 spricht.\n\t") is None
    assert "half a character" in text_problem("prompt", "a\ud800b")
    assert "zero byte" in text_problem("prompt", "a\0b")
    assert "1,000,001 characters" in text_problem("prompt", "x" * (MOST_TEXT + 1))


class Nasty:
    def __repr__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    "value",
    ["x" * 1_000_000, "\x1b[31mred\n" * 20, ["a" * 500] * 50, {"k" * 300: "v" * 300}, 10**5000, Nasty(), b"\0" * 1000, [[[[[[1]]]]]]],
    ids=range(8),
)
def test_what_is_shown_is_short_and_in_one_line(value):
    text = shown(value)
    assert len(text) <= 80
    assert text.isprintable()


def test_short_values_are_shown_whole():
    assert shown("ü x") == "'ü x'"
    assert shown(12) == "12"
    assert shown(None) == "None"
    assert shown(object()) == "a object"


def test_foreign_words_in_a_sentence():
    assert cut("a\n b\x1b[0m c") == "a b?[0m c"
    assert len(cut("word " * 1000)) == 80
    assert cut("word " * 1000, 20) == "word word word wo..."


def test_what_a_terminal_gets_moves_no_cursor():
    assert printable("a\x1b[2Jb\r\x07\x9b\u202eüc\td\ne") == "a?[2Jb????üc\td\ne"


@pytest.mark.parametrize("text", ["<img src=x onerror=alert(1)>", "a<b", "<script>", "&lt;<svg/onload=x>", "</p><iframe>"])
def test_what_a_node_shows_holds_no_tag(text):
    """ComfyUI's page shows the text of a node as HTML."""
    assert not set("<>") & set(without_markup(text))


def test_what_a_node_shows_ends():
    assert len(without_markup("x" * 10_000_000)) == 20_000
    assert without_markup("clip 2/7, step 3/40\n1:02 left") == "clip 2/7, step 3/40\n1:02 left"
