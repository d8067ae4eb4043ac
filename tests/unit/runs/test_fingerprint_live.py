"""What decides a live video beside what decides every other one."""

from dataclasses import replace

import pytest
import torch
from wan_s2v_pack.tests.unit.runs.test_fingerprint import inputs  # noqa: F401  # a fixture
from wan_s2v_pack.wan_s2v_model.runs.fingerprint import live_fingerprint, run_fingerprint
from wan_s2v_pack.wan_s2v_model.sampling.live import FIRST_LATENT, LIVE_ANCHORS
from wan_s2v_pack.wan_s2v_model.sampling.live_clips import LiveJob

OTHER_ANCHOR = next(anchor for anchor in LIVE_ANCHORS if anchor != FIRST_LATENT)


@pytest.fixture
def live(inputs):  # noqa: F811
    job = LiveJob(inputs["plan"], inputs["seed"])
    return {"model": inputs["model"], "positive": inputs["positive"], "job": job, "vae": inputs["vae"], "float8_rings": False}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("steps", lambda i: {"job": replace(i["job"], steps=3)}),
        ("anchor", lambda i: {"job": replace(i["job"], anchor=OTHER_ANCHOR)}),
        ("restart_clips", lambda i: {"job": replace(i["job"], restart_clips=13)}),
        ("rings", lambda i: {"float8_rings": True}),
        ("seed", lambda i: {"job": replace(i["job"], seed=43)}),
        ("prompt", lambda i: {"positive": [[torch.full((1, 5, 8), 2.0), {}]]}),
        ("picture", lambda i: {"job": replace(i["job"], plan=replace(i["job"].plan, ref_latents=torch.zeros(1, 16, 1, 4, 4)))}),
    ],
)
def test_each_input_changes_its_own_entry_alone(name, change, live):
    before, after = live_fingerprint(**live), live_fingerprint(**{**live, **change(live)})
    assert live_fingerprint(**live) == before
    assert {entry for entry in before if before[entry] != after[entry]} == {name}
    assert before.keys() == after.keys()


def test_it_goes_on_with_no_run_of_the_other_sampler(live, inputs):  # noqa: F811
    assert live_fingerprint(**live)["mode"] == "live"
    assert run_fingerprint(**inputs).get("mode") != "live"
