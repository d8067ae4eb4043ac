"""Stored results of Live-Avatar's own code; and mistakes made on purpose, which move the latents as far as they moved them there."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from wan_s2v_pack.tests.golden import cases_live
from wan_s2v_pack.tests.golden.case import Case
from wan_s2v_pack.tests.golden.cases_audio import load_encoder
from wan_s2v_pack.tests.golden.folder import find_jobs
from wan_s2v_pack.wan_s2v_model.audio import features
from wan_s2v_pack.wan_s2v_model.sampling.live import (
    Anchor,
    Heard,
    LiveSampler,
    LiveState,
    first_latent_anchor,
    live_blocks,
    live_sigmas,
    official_sigmas,
)
from wan_s2v_pack.wan_s2v_model.transformer import causal

CLIP = 4  # blocks
AT_ONCE, LATER = range(CLIP), range(CLIP, 2 * CLIP)  # blocks of the clip in which a mistake is seen first
VISIBLE = cases_live.LATENTS_TOLERANCE


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def case(golden_folder):
    return Case(golden_folder, golden_folder / "live" / "tpp.safetensors")


@pytest.fixture(scope="module")
def table(golden_folder):
    return json.loads((golden_folder / "live" / "sensitivity.json").read_text())["mistakes"]


class Wrapped:
    """A network whose calls are changed on the way."""

    def __init__(self, video, change=lambda arguments: arguments):
        self.video, self.change = video, change

    def clear(self):
        self.video.clear()

    def set_anchor(self, *arguments):
        self.video.set_anchor(*arguments)

    def forward(self, *arguments):
        return self.video.forward(*self.change(arguments))


def error(case, network, last, *, sigmas=None, sound=None, next_anchor=first_latent_anchor, behind_block=lambda sampler, block: None):
    """How far the latents of the last blocks are off, largest and root mean square."""
    sampler = cases_live.sampler(case, network, sigmas or official_sigmas(4))
    if sound is not None:
        sampler = LiveSampler(network, replace(sampler._told, of_block=lambda block: Heard(sound(block))), official_sigmas(4))
    noise, expected = (torch.cat([case.tensors[f"clip{clip}.{name}"] for clip in range(3)], dim=1) for name in ("noise", "latents_out"))
    start = LiveState(0, Anchor(case.tensors["in.ref_latents"], case.tensors["in.motion_latents"]))
    found = []
    for block, _ in live_blocks(sampler, start, last.stop, lambda block: noise[:, 3 * block : 3 * block + 3], next_anchor=next_anchor):
        found.append(block.latents)
        behind_block(sampler, block)
    wrong = torch.cat(found[last.start :], dim=1) - expected[:, 3 * last.start : 3 * last.stop]
    return float(wrong.abs().max()), float(wrong.square().mean().sqrt())


def network(case, **options):
    return Wrapped(cases_live.network(case, **options))


def changed(case, change):
    return Wrapped(cases_live.network(case), change)


def test_the_rules_as_specified(case):
    assert error(case, network(case), LATER)[0] < VISIBLE / 4


def test_late_blocks_and_tables(golden_folder):
    jobs = [job for job in find_jobs(golden_folder, "live") if not job.name.startswith("live/tpp")]
    rows = [row for job in jobs for row in job.rows()]
    assert {job.name for job in jobs} == {"live/late", "live/schedule.json", "live/sensitivity.json", "live/audio_rows_25fps.json"}
    assert all(row.ok for row in rows), [row for row in rows if not row.ok]
    assert len(rows) == 10


def test_cases_beside_the_folders_and_models_elsewhere(golden_folder, tmp_path):
    for name in ("late.safetensors", "schedule.json"):
        shutil.copy(golden_folder / "live" / name, tmp_path)
    rows = [row for job in find_jobs(tmp_path, None, golden_folder) for row in job.rows()]
    assert len(rows) == 7
    assert all(row.ok for row in rows)


def exact_rotary_table(case, patch):
    return error(case, network(case, rounds_rope=False), AT_ONCE)


def fourth_step_left_out(case, patch):
    return error(case, network(case), AT_ONCE, sigmas=live_sigmas(3))


def truncated_timesteps(case, patch):
    return error(case, changed(case, lambda given: (*given[:2], float(int(given[2])), *given[3:])), AT_ONCE)


def other_timesteps(case, patch):
    return error(case, network(case), AT_ONCE, sigmas=[1.0, 0.9, 0.75, 0.5, 0.0])


def one_ring(case, patch):
    wrapped = network(case)
    wrapped.video.rings = dict.fromkeys(range(4), wrapped.video.rings[0])
    return error(case, wrapped, AT_ONCE)


def one_ring_of_clean_keys(case, patch):
    wrapped = network(case)
    wrapped.video.rings = dict.fromkeys(range(4), wrapped.video.rings[0])

    def clean(sampler, block):
        told = sampler._told
        wrapped.forward(block.latents, 0, 0.0, 3 * block.index, told.distance(block.index, 3), told.of_block(block.index).sound)

    return error(case, wrapped, AT_ONCE, behind_block=clean)


def picture_at_30(case, patch):
    return error(case, changed(case, lambda given: (*given[:4], 30 - given[3], *given[5:])), AT_ONCE)


def distance_17(case, patch):
    return error(case, changed(case, lambda given: (*given[:4], 17, *given[5:])), AT_ONCE)


def no_motion(case, patch):
    set_anchor = causal.CausalVideo.set_anchor
    patch.setattr(causal.CausalVideo, "set_anchor", lambda self, picture, motion, text: set_anchor(self, picture, 0 * motion, text))
    return error(case, network(case), AT_ONCE)


def rings_cleared(case, patch):
    wrapped = network(case)

    def clear(sampler, block):
        if block.index == CLIP - 1:
            for ring in wrapped.video.rings.values():
                ring.memories.clear()

    return error(case, wrapped, LATER, behind_block=clear)


def positions_anew(case, patch):
    return error(case, changed(case, lambda given: (*given[:3], given[3] % 12, *given[4:])), LATER)


def ring_of_15(case, patch):
    return error(case, network(case, window=15), LATER)


def rows_of_16_fps(case, patch):
    samples = case.tensors["in.wave_i16"].float() / 32768
    rows = features.resample_rows(features.hidden_states(load_encoder(case.models / cases_live.WAV2VEC), features.normalise(samples)))
    heard = features.pick_frames(rows, 16)
    return error(case, network(case), AT_ONCE, sound=lambda block: heard[..., 12 * block : 12 * block + 12])


def anchor_kept(case, patch):
    return error(case, network(case), LATER, next_anchor=None)


MISTAKES = {
    "fourth step left out": fourth_step_left_out,
    "timesteps truncated to integers": truncated_timesteps,
    "timesteps 1000, 900, 750, 500": other_timesteps,
    "one ring for all steps": one_ring,
    "one ring of clean keys (self-forcing)": one_ring_of_clean_keys,
    "picture always at 30": picture_at_30,
    "picture distance 17 instead of the drawn one": distance_17,
    "sink without motion": no_motion,
    "rings cleared at each clip": rings_cleared,
    "positions start anew at each clip": positions_anew,
    "ring of 15 latents": ring_of_15,
    "audio rows of 16 fps": rows_of_16_fps,
    "anchor never replaced": anchor_kept,
}
SEEN_LATER = ("rings cleared at each clip", "positions start anew at each clip", "ring of 15 latents", "anchor never replaced")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake(case, table, monkeypatch, mistake):
    largest, typical = MISTAKES[mistake](case, monkeypatch)
    assert largest > 10 * VISIBLE
    assert typical == pytest.approx(table[mistake]["rms_per_clip"][mistake in SEEN_LATER], rel=0.02)


def test_the_exact_rotary_table_stays_within_the_tolerance(case, table, monkeypatch):
    largest, typical = exact_rotary_table(case, monkeypatch)
    assert largest < VISIBLE
    assert typical == pytest.approx(table["exact rotary table instead of float16-rounded"]["rms_per_clip"][0], rel=0.1)


def test_every_mistake_is_made(table):
    rules = {"none (the rules as specified)", "exact rotary table instead of float16-rounded"}
    assert MISTAKES.keys() | rules == table.keys()
