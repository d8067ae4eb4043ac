"""Bad input at scale: whatever comes over links and widgets, a node gives a result or an error that a person understands.

Hypothesis draws the cases: 120 here, 10,000 with WAN_S2V_CASES=10000, others with another WAN_S2V_SEED. docs/reliability.md says what came
of it.
"""

import asyncio
import inspect
import math
import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.odd_values import NUMBERS, ONLY_DRAWN, TEXTS
from wan_s2v_pack.tests.raw_errors import is_in_own_words, raw_error
from wan_s2v_pack.wan_s2v_model.untrusted import shown

hypothesis = pytest.importorskip("hypothesis", reason="hypothesis is in requirements-dev.txt")
st = hypothesis.strategies
pytestmark = [pytest.mark.comfy, pytest.mark.filterwarnings("ignore")]
CASES = int(os.environ.get("WAN_S2V_CASES", "120"))
PACKAGE = "wan_s2v_pack."
SEED = int(os.environ.get("WAN_S2V_SEED", "0"))


class Foreign:
    """An object of another pack, in any socket."""

    shape = (1, 2)
    sample_rate = 3


NUMPY = [np.int64(3), np.float32(0.5), np.bool_(True), np.str_("x"), np.array([1, 2]), np.zeros((0,)), np.float64("nan"), np.array("x")]
TENSORS = [
    *(
        torch.zeros(shape)
        for shape in [(), (0,), (1,), (5,), (1, 64, 64, 3), (2, 64, 64, 4), (64, 64, 3), (1, 64, 64, 7), (1, 1, 1, 3), (0, 64, 64, 3)]
    ),
    *(torch.ones(1, 64, 64, 3, dtype=dtype) for dtype in (torch.uint8, torch.int64, torch.float16, torch.bool, torch.complex64)),
    *(torch.full((1, 64, 64, 3), value) for value in (math.nan, math.inf, -5.0, 1e30)),
    torch.empty(1, 64, 64, 3, device="meta"),
    torch.eye(4).to_sparse(),
    torch.tensor([1.0, 0.5, 0.0]),
    torch.tensor(0.5),
]
OBJECTS = [
    None,
    [],
    {},
    (),
    [None],
    {"a": 1},
    [[torch.zeros(1, 4, 8), {}]],
    [[None, None]],
    b"bytes",
    object(),
    Foreign(),
    print,
    int,
    {1, 2},
]
WAVEFORM = torch.zeros(1, 1, 16_000)
SOUNDS = (
    [
        {"waveform": WAVEFORM, "sample_rate": rate}
        for rate in (16_000, 7, 1, 0, -1, 44_100.5, 10**9, math.nan, "x", None, np.int64(22_050), torch.tensor(8000))
    ]
    + [
        {"waveform": wave, "sample_rate": 16_000}
        for wave in (
            None,
            "x",
            torch.zeros(0),
            torch.zeros(1, 2, 0),
            WAVEFORM.long(),
            WAVEFORM * math.nan,
            torch.zeros(1, 500, 500),
            WAVEFORM.to("meta"),
        )
    ]
    + [{}, {"waveform": WAVEFORM}, {"sample_rate": 3}]
)
TINY = {**{f"{kind}_name": f"{name}.safetensors" for kind, name in (
    ("model", "wan_s2v_tiny"), ("text_encoder", "umt5_tiny"), ("audio_encoder", "wav2vec2-tiny/model"), ("vae", "wan_2.1_vae_tiny"),
    ("lora", "tiny_lightx2v"))}}  # fmt: skip
CUSTOM = {"size": "custom", "width": 64, "height": 64}
FITTING = {  # what is small, where the default takes minutes
    **{name: [file] for name, file in TINY.items()},
    **{"steps": [1, 2], "frames_per_clip": [4, 16], "size": [CUSTOM], "run_name": ["", "named"], "duration": [0.0, 0.3]},
    **{"text": ["Hello."], "voice": ["espeak-ng"], "filename_prefix": ["video", "folder/video"], "prompt": ["a woman"]},
    **{"schedule": ["0:00 a woman\n0:01 a man"], "turns": ["", "1"], "box_1": ["", "0 0 0.5 1"], "box_2": ["", "0.5 0 0.5 1"]},
}
SETTINGS = {
    "WAN_S2V_CONTINUITY": ("WanS2VContinuity", ("colour transfer", 1.0, "same seed")),
    "WAN_S2V_AUDIO_GUIDANCE": ("WanS2VAudioGuidance", (3.0, 0.0, 1.0, 1.0)),
    "WAN_S2V_SAMPLING_OPTIONS": ("WanS2VSamplingOptions", (0.0, 1.0, 2)),
    "WAN_S2V_STEP_CACHE": ("WanS2VStepCache", (0.1, 2)),
}
ANYTHING = [*TEXTS, *NUMBERS, *NUMPY, *TENSORS, *OBJECTS, *SOUNDS]


def good_values(widget, fixtures):
    """What fits an input."""
    kind = widget.get_io_type()
    if widget.id in FITTING:
        return FITTING[widget.id]
    if kind == "COMBO":
        return list(widget.options or ["x"])
    if kind == "COMFY_DYNAMICCOMBO_V3":
        return [{widget.id: option.key, **{inner.id: inner.default for inner in option.inputs}} for option in widget.options]
    default = getattr(widget, "default", None)
    return fixtures.get(str(kind)) or [default]


def values_of(draw, widget, fixtures):
    good = draw(st.integers(0, 9)) < 7
    pool = good_values(widget, fixtures) if good else ANYTHING
    return pool[draw(st.integers(0, len(pool) - 1))]


@pytest.fixture
def nodes(bridge, models, tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    for folder in models.iterdir():
        monkeypatch.setitem(folder_paths.folder_names_and_paths, folder.name, ([str(folder)], {".safetensors"}))
    (tmp_path / "output").mkdir()
    return asyncio.run(pack_module("nodes").WanS2VExtension().get_node_list())


@pytest.fixture
def fixtures(nodes):
    """What fits each socket, made by the nodes themselves: a video of two clips of four frames."""
    make = {node.__name__: node.execute for node in nodes}
    with torch.inference_mode():
        (model,) = make["WanS2VModelLoader"](TINY["model_name"], "fp32", "official", "comfyui").args
        (clip,) = make["WanS2VTextEncoderLoader"](TINY["text_encoder_name"]).args
        (encoder,) = make["WanS2VAudioEncoderLoader"](TINY["audio_encoder_name"], "fp32").args
        (vae,) = make["WanS2VVAELoader"](TINY["vae_name"], "fp32").args
        sound, pictures = {"waveform": torch.rand(1, 2, 8000) - 0.5, "sample_rate": 16_000}, torch.rand(3, 64, 64, 3)
        text, negative = make["WanS2VTextEncode"](clip, "a woman speaks", "").args
        encoded = make["WanS2VAudioEncode"](encoder, sound, 0.0, 0.3).args[0]
        plan = make["WanS2VPrepare"](encoded, pictures[:1], vae, 4, 0, size=CUSTOM).args[0]
        pose = make["WanS2VPose"](1.0, "hold", 0.0, 1.0, 16.0, images=pictures).args[0]
        settings = {name: [None, make[node](*values).args[0]] for name, (node, values) in SETTINGS.items()}
        options = settings["WAN_S2V_SAMPLING_OPTIONS"][1]
        (clips,) = make["WanS2VSampler"](model, text, negative, vae, plan, 1, 1, 2.0, "", options=options).args
    return settings | {
        "MODEL": [model], "CLIP": [clip], "VAE": [vae], "AUDIO_ENCODER": [encoder], "CONDITIONING": [text, negative],
        "MASK": [torch.ones(1, 64, 64), torch.ones(3, 64, 64), None], "IMAGE": [pictures, pictures[:1], None], "AUDIO": [sound, None],
        "WAN_S2V_AUDIO": [encoded], "WAN_S2V_PLAN": [plan], "WAN_S2V_CLIPS": [clips, None], "WAN_S2V_POSE": [None, pose],
        "SAMPLER": [None], "SIGMAS": [None, torch.tensor([1.0, 0.5, 0.0])],
    }  # fmt: skip


def case(draw, node, fixtures):
    schema = node.define_schema()
    values = {widget.id: values_of(draw, widget, fixtures) for widget in schema.inputs}
    if node.__name__ == "WanS2VTextToSpeech":
        values["text"] = values["text"] if not isinstance(values["text"], str) else values["text"][:20]
    optional = {widget.id for widget in schema.inputs if widget.optional or widget.lazy}
    given = {name: value for name, value in values.items() if takes(node.execute, name) and not (name in optional and draw(st.booleans()))}
    unknown = {"extra": ANYTHING[draw(st.integers(0, len(ANYTHING) - 1))]} if draw(st.integers(0, 29)) == 0 else {}
    return given | unknown  # ComfyUI passes on a link into an input that there is not


def is_own(node, name):
    return name in vars(node)


def takes(function, name):
    rules = inspect.signature(function).parameters
    return name in rules or any(rule.kind is rule.VAR_KEYWORD for rule in rules.values())


def outcome(function, values):
    """None for a result or an error in words, else the raw error."""
    try:
        with torch.inference_mode():
            function(**values)
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        if raw_error(error):
            return raw_error(error)
        return None if is_in_own_words(error, PACKAGE) else f"not in our words: {type(error).__name__}: {str(error)[:300]}"
    return None


def test_every_node_gives_a_result_or_words(nodes, fixtures, tmp_path):
    outside = {path for path in tmp_path.rglob("*") if "output" not in path.parts and "temp" not in path.parts}
    raw, seconds = {}, []

    @hypothesis.seed(SEED)
    @hypothesis.settings(max_examples=CASES, **ONLY_DRAWN)
    @hypothesis.given(data=st.data())
    def try_one(data):
        started = time.monotonic()
        node = nodes[data.draw(st.integers(0, len(nodes) - 1))]
        pnginfo = ANYTHING[data.draw(st.integers(0, len(ANYTHING) - 1))]
        stand_in = type(node.__name__, (node,), {"hidden": SimpleNamespace(prompt={}, extra_pnginfo=pnginfo, unique_id="1")})
        values = case(data.draw, node, fixtures)
        checks = {name: getattr(node, name) for name in ("validate_inputs", "fingerprint_inputs") if is_own(node, name)}
        for name, function in {"execute": stand_in.execute, **checks}.items():
            error = outcome(function, {key: value for key, value in values.items() if name != "validate_inputs" or takes(function, key)})
            if error is not None:
                raw.setdefault((node.__name__, name, error), {key: shown(value) for key, value in values.items()})
        seconds.append((round(time.monotonic() - started, 1), node.__name__))

    try_one()
    print(f"{len(seconds)} cases, the slowest (seconds): {sorted(seconds)[-5:]}")
    assert not raw, "\n".join(f"{node} {function}: {error}\n    {values}" for (node, function, error), values in raw.items())
    assert {path for path in tmp_path.rglob("*") if "output" not in path.parts and "temp" not in path.parts} == outside


OTHER_KINDS = [5, 0.5, True, b"bytes", {"a": 1}, [[None]], print, torch.tensor(0.5), torch.zeros(2), np.array([1, 2]), np.array(["x", "y"])]


@pytest.mark.parametrize("value", OTHER_KINDS, ids=shown)
def test_what_is_asked_before_a_run_takes_anything(nodes, value):
    raw = []
    for node in nodes:
        defaults = {widget.id: getattr(widget, "default", None) for widget in node.define_schema().inputs}
        checks = [getattr(node, name) for name in ("validate_inputs", "fingerprint_inputs") if is_own(node, name)]
        for check in checks:
            known = {name: given for name, given in defaults.items() if takes(check, name)}
            raw += [(node.__name__, name, error) for name in known if (error := outcome(check, known | {name: value}))]
    assert not raw


def test_none_over_an_optional_link_counts_as_nothing_connected(nodes, fixtures):
    (sampler,) = (node for node in nodes if node.__name__ == "WanS2VSampler")
    sockets = [fixtures[name][0] for name in ("MODEL", "CONDITIONING", "CONDITIONING", "VAE", "WAN_S2V_PLAN")]
    free = dict.fromkeys(("continuity", "audio_guidance", "options", "sampler", "sigmas", "step_cache"))
    with torch.inference_mode():
        assert sampler.execute(*sockets, 1, 1, 1.0, "", **free).args[0].num_frames > 0


@pytest.mark.parametrize("value", [torch.zeros(2), {1, 2}, b"x"], ids=shown)
def test_no_video_is_lost_for_a_workflow_that_is_no_json(value, nodes, fixtures):
    (save,) = (node for node in nodes if node.__name__ == "WanS2VSaveVideo")
    hidden = SimpleNamespace(prompt={}, extra_pnginfo={"workflow": {}, "other": value}, unique_id="1")
    with torch.inference_mode():
        saved = type("Save", (save,), {"hidden": hidden}).execute("video", "mp4 (h264)", 18, 16.0, clips=fixtures["WAN_S2V_CLIPS"][0])
    assert Path(saved.args[1]).is_file()
