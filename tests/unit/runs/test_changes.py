"""Inputs that differ from those a run was begun with are told in words."""

import os

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.runs.changes import Notes, RunChangedError, first_changed_clip, spans_of, told, words_of_graph
from wan_s2v_pack.wan_s2v_model.runs.manifest import value_at
from wan_s2v_pack.wan_s2v_model.runs.store import RunStore

FINGERPRINT = {"seed": 42, "steps": 40, "cfg": 4.5, "prompt": "a woman sings", "audio": "sha256:ab", "pose": None, "official": False}


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "song"


def make_run(folder, fingerprint=FINGERPRINT):
    """A run with one finished clip."""
    with RunStore.open(folder, fingerprint) as store:
        store.write_clip(0, latents=torch.zeros(16, 5, 6, 8), motion_latents=None, frames=torch.zeros(17, 48, 64, 3, dtype=torch.uint8))


def test_changed_inputs_are_refused_with_every_change(folder):
    make_run(folder)
    before = {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}
    changed = {**FINGERPRINT, "seed": 43, "prompt": "a man sings", "official": True, "extra": None}
    del changed["pose"]
    with pytest.raises(RunChangedError) as caught:
        RunStore.open(folder, changed)
    message = str(caught.value)
    for text in (
        "run 'song'",
        "seed: 42 -> 43",
        "prompt: 'a woman sings' -> 'a man sings'",
        "official: False -> True",
        "extra: (absent) -> None",
        "pose: None -> (absent)",
        "another run name",
        "redo it from",
    ):
        assert text in message
    for name in ("steps", "cfg", "audio"):
        assert f"{name}:" not in message
    assert caught.value.changes["seed"] == (42, 43)
    assert {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))} == before


def test_names_that_an_older_version_did_not_record_count_as_assumed(folder):
    make_run(folder)
    newer = {**FINGERPRINT, "cfg_end": 1.0, "vae": "ab"}
    RunStore.open(folder, newer, Notes(assumed={"cfg_end": 1.0, "vae": "ab"})).close()
    with pytest.raises(RunChangedError, match=r"cfg_end: 1\.0 -> 0\.5"):
        RunStore.open(folder, {**newer, "cfg_end": 0.5}, Notes(assumed={"cfg_end": 1.0, "vae": "ab"}))
    with pytest.raises(RunChangedError, match="seed: 42 -> 43"):  # what is recorded wins
        RunStore.open(folder, {**newer, "seed": 43}, Notes(assumed={"cfg_end": 1.0, "vae": "ab", "seed": 43}))


def test_long_texts_are_cut_to_where_they_differ(folder):
    make_run(folder, {"prompt": "very " * 200 + "slowly"})
    with pytest.raises(RunChangedError) as caught:
        RunStore.open(folder, {"prompt": "very " * 200 + "quickly"})
    assert "slowly" in str(caught.value)
    assert "quickly" in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(("old", "new"), [(True, 1), (0, False), (None, 0), ("1", 1), (1.5, 1.25)])
def test_values_of_another_kind_are_changes(folder, old, new):
    make_run(folder, {"value": old})
    with pytest.raises(RunChangedError):
        RunStore.open(folder, {"value": new})


def test_an_integer_equals_the_same_float(folder):
    make_run(folder, {"cfg": 4})
    RunStore.open(folder, {"cfg": 4.0}).close()


HASHES = {"prompt": "0123456789abcdef", "audio": "fedcba9876543210", "seed": 42, "picture": "00112233445566aa"}
WORDS = {"prompt": "a man talks", "audio": "speech.wav"}


def test_hashes_are_told_in_words(folder):
    with RunStore.open(folder, HASHES, Notes(words=WORDS)) as store:
        store.write_clip(0, latents=torch.zeros(16, 5, 6, 8), motion_latents=None, frames=torch.zeros(17, 48, 64, 3, dtype=torch.uint8))
    changed = {"prompt": "1" * 16, "audio": "2" * 16, "seed": 43, "picture": "3" * 16}
    with pytest.raises(RunChangedError) as caught:
        RunStore.open(folder, changed, Notes(words={**WORDS, "prompt": "a woman talks"}))
    assert str(caught.value).splitlines()[1:5] == [
        "  prompt: 'a man talks' -> 'a woman talks'",
        "  audio: 'speech.wav', with another content or other settings",
        "  seed: 42 -> 43",
        "  picture: not the same as before",
    ]


def test_a_manifest_without_words_is_told_as_far_as_it_can_be():
    """Of an older version of the pack."""
    assert list(told({"prompt": ("0" * 16, "1" * 16)}, {}, WORDS)) == ["prompt: (absent) -> 'a man talks'"]


GRAPH = {
    "1": {"inputs": {"model_name": "s2v.safetensors"}},
    "2": {"inputs": {"model": ["1", 0], "lora_name": "fast.safetensors", "strength": 1.0}},
    "3": {"inputs": {"model": ["2", 0], "lora_name": "style.safetensors", "strength": 0.5}},
    "4": {"inputs": {"clip": ["9", 0], "prompt": "a man talks", "negative_prompt": ["8", 0]}},
    "5": {"inputs": {"image": "me.png"}},
    "6": {"inputs": {"audio_encoder": ["9", 0], "audio": ["61", 0], "driving_audio": ["62", 0]}},
    "61": {"inputs": {"audio": "song.flac"}},
    "62": {"inputs": {"audio": "vocals.flac"}},
    "7": {"inputs": {"encoded_audio": ["6", 0], "image": ["71", 0], "vae": ["9", 0]}},
    "71": {"inputs": {"image": ["5", 0], "upscale_method": "lanczos"}},
    "8": {"inputs": {"value": "blurred"}},
    "10": {"inputs": {"model": ["3", 0], "positive": ["4", 0], "negative": ["4", 1], "vae": ["404", 0], "plan": ["7", 0]}},
}


def test_words_are_found_in_the_graph():
    assert words_of_graph(GRAPH, "10") == {
        "prompt": "a man talks",
        "negative_prompt": "blurred",
        "model": "s2v.safetensors",
        "loras": "style.safetensors, fast.safetensors",
        "audio": "song.flac, vocals.flac",
        "picture": "me.png",
    }


def test_a_graph_without_the_sampler_has_no_words():
    """A node that another node has added while the graph ran."""
    assert words_of_graph(GRAPH, "10.0.1") == words_of_graph({}, "10") == {}


A, B, C = "a" * 16, "b" * 16, "c" * 16


@pytest.mark.parametrize(
    ("names", "first"),
    [
        (["prompt"], 3),
        (["prompt", "pose"], 2),
        (["seed_policy", "prompt"], 1),
        (["seed", "prompt"], 0),
        (["audio"], 0),
        (["negative_prompt"], 0),
        (["model"], 0),
    ],
)
def test_the_first_clip_that_changes(names, first):
    old = {"prompt": spans_of([A, A, A, B]), "pose": spans_of([A, B, C]), "negative_prompt": (), "audio": spans_of([A, B])}
    new = {"prompt": spans_of([A, A, A, C]), "pose": spans_of([A, B, A]), "negative_prompt": spans_of([A]), "audio": spans_of([A, C])}
    changes = {name: (None, None) for name in names}
    assert first_changed_clip(changes, ("audio",), old, new) == first


def test_what_changed_in_no_clip_that_is_known_changes_all_of_them():
    same = {"prompt": spans_of([A, B])}
    assert first_changed_clip({"prompt": (A, B)}, (), same, same) == 0


def test_values_by_clip_are_kept_where_they_change():
    assert spans_of([A, A, B, B, A]) == ((0, A), (2, B), (4, A))
    assert [value_at(spans_of([A, A, B]), clip) for clip in range(4)] == [A, A, B, B]
    assert value_at((), 0) is None
