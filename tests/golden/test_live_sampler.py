"""Sample Video Live with the tiny models inside ComfyUI: its clips, its takes, its messages, and a run that is cut off."""

import logging
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from wan_s2v_pack.tests.golden.comfyui import pack_module
from wan_s2v_pack.tests.golden.tiny_model import load_ours, what_remains
from wan_s2v_pack.tests.live_stand_in import make_plan

pytestmark = pytest.mark.comfy
SIDE, RATE_HZ, SEED = 64, 16_000, 7
NUM_FRAMES = 46  # one clip, and a frame


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


@pytest.fixture(autouse=True)
def output(tmp_path):
    import folder_paths
    from comfy.cli_args import args

    args.disable_metadata = True
    folder_paths.set_output_directory(str(tmp_path / "output"))
    folder_paths.set_temp_directory(str(tmp_path / "temp"))
    return tmp_path / "output"


def plan_of(num_frames=NUM_FRAMES, **changes):
    plan = make_plan(num_frames)
    generator = torch.Generator().manual_seed(2)
    return replace(
        plan,
        height=SIDE,
        width=SIDE,
        audio_features=torch.randn(25, 32, plan.timeline.num_audio_frames, generator=generator),
        ref_latents=torch.randn(1, 16, 1, 8, 8, generator=generator),
        picture=torch.rand(SIDE, SIDE, 3, generator=generator),
        **changes,
    )


def text(length=6):
    return [[torch.randn(1, length, 64, generator=torch.Generator().manual_seed(3)), {}]]


def sample(model, vae, plan=None, run_name="", **options):
    node = pack_module("nodes.live").WanS2VLiveSampler
    return node.execute(model, options.pop("positive", None) or text(), vae, plan or plan_of(), SEED, run_name, **options).args[0]


def test_clips_go_where_other_clips_go(model, vae, output):
    clips = sample(model, vae)
    assert (clips.fps, clips.num_frames, clips.timeline.num_clips) == (25, NUM_FRAMES, 2)
    decode = pack_module("nodes.video").WanS2VDecode
    exact, sound, fps = decode.execute(clips).args
    stored = decode.execute(clips, exact=False).args[0]
    assert (exact.shape, fps) == ((NUM_FRAMES, SIDE, SIDE, 3), 25.0)
    assert torch.equal((exact * 255).to(torch.uint8), (stored * 255).round().to(torch.uint8))
    assert sound["waveform"].shape[2] == NUM_FRAMES * RATE_HZ // 25
    report = pack_module("nodes.reports").WanS2VDriftReport.execute(clips).args[0]
    assert report.splitlines()[2].split()[1] == "1.80"  # seconds where clip 2 begins
    tail = pack_module("nodes.video").WanS2VTail.execute(16, clips=clips).args[0]
    assert len(tail) == 16
    path = pack_module("nodes.video").WanS2VSaveVideo.execute("video", "mp4 (h264)", 18, 25.0, clips=clips).args[1]
    with pack_module("wan_s2v_model.media.video_reader").VideoReader(path, 0.0, 0.0) as reader:
        assert (reader.fps, len(reader.times)) == (25, NUM_FRAMES)


def test_prepare_reckons_a_plan_for_live_video_as_such(bridge, vae):
    prepare = pack_module("nodes.prepare")
    lines, words = prepare._outlook(plan_of(), vae, bridge.ONE_GPU)
    assert "live: 5 blocks of 4 steps" in lines
    assert words.endswith("of 25 frames per second")
    normal = replace(plan_of(), timeline=replace(plan_of().timeline, fps=16))
    lines, words = prepare._outlook(normal, vae, bridge.ONE_GPU)
    assert "at 40 steps" in words
    assert not any("live" in line for line in lines)


def test_cancelled_and_queued_again_it_has_the_same_bytes(model, vae, output, monkeypatch):
    import comfy.model_management

    sample(model, vae, run_name="whole")
    live = pack_module("wan_s2v_model.sampling.live")
    velocity, calls = live.LiveSampler._velocity, []

    def cancelled(*arguments):
        calls.append(1)
        if len(calls) == 18:
            raise comfy.model_management.InterruptProcessingException
        return velocity(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(live.LiveSampler, "_velocity", cancelled)
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            sample(model, vae, run_name="cut")
    assert len(contents(output, "cut")) == 1
    sample(model, vae, run_name="cut")
    assert contents(output, "cut") == contents(output, "whole")
    assert len(contents(output, "cut")) == 2


def test_each_of_two_speakers_moves_the_own_side(model, vae):
    def frames(*sounds):
        left = torch.zeros(2, 12, SIDE // 16, SIDE // 16)
        left[0, ..., : SIDE // 32], left[1, ..., SIDE // 32 :] = 1, 1
        speakers = SimpleNamespace(heard=lambda numbers: torch.stack([sound.expand(25, 32, len(numbers)) for sound in sounds])[None])
        regions = SimpleNamespace(of_clip=lambda timeline, clip: left)
        return torch.cat(list(sample(model, vae, replace(plan_of(12), speakers=speakers, regions=regions)).frames())).float()

    quiet, loud = torch.zeros(25, 32, 1), torch.randn(25, 32, 1, generator=torch.Generator().manual_seed(4))
    neither, first, second = frames(quiet, quiet), frames(loud, quiet), frames(quiet, loud)
    changes = [
        [(part - whole).abs().mean() for part, whole in zip(each.chunk(2, dim=2), neither.chunk(2, dim=2), strict=True)]
        for each in (first, second)
    ]
    assert changes[0][0] > changes[0][1]
    assert changes[1][1] > changes[1][0]


def test_other_inputs_make_another_take(model, vae, output):
    plan = plan_of(12)
    sample(model, vae, plan, "song")
    sample(model, vae, plan, "song", steps="3")
    assert (output / "wan_s2v_runs" / "song_2").is_dir()
    sample(model, vae, plan, "song")
    assert not (output / "wan_s2v_runs" / "song_3").exists()


def test_out_of_memory_it_goes_on_with_the_rings_in_main_memory(model, vae, caplog, monkeypatch):
    expected = torch.cat(list(sample(model, vae, plan_of(30)).frames()))
    module = pack_module("wan_s2v_model.transformer.causal")
    forward, calls = module.CausalVideo.forward, []

    def failing(self, *arguments, **options):
        calls.append(self._placement.on_host)
        if not self._placement.on_host and len(calls) > 5:
            raise torch.OutOfMemoryError("no room")
        return forward(self, *arguments, **options)

    monkeypatch.setattr(module.CausalVideo, "forward", failing)
    with caplog.at_level(logging.WARNING):
        found = torch.cat(list(sample(model, vae, plan_of(30)).frames()))
    assert "with the rings in main memory" in caplog.text
    assert calls[-1]
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("plan", "positive", "words"),
    [
        (replace(make_plan(30), picture=None), None, "prepare it again"),
        (None, text() + text(), "takes one prompt for the whole video"),
        (replace(make_plan(30), timeline=replace(make_plan(30).timeline, fps=16)), None, "Set frame_rate to 25 in Encode Audio"),
    ],
)
def test_what_it_cannot_use_is_refused_with_words(plan, positive, words, model, vae):
    with pytest.raises(ValueError, match=words):
        sample(model, vae, plan, positive=positive)


# Several GPUs


def contents(output, name):
    return {path.name: path.read_bytes() for path in (output / "wan_s2v_runs" / name).glob("clip_*")}


@pytest.fixture
def at(monkeypatch):
    """Something that happens once when a block of the video comes to a step; who does which step."""
    module, makers, due = pack_module("wan_s2v_model.transformer.causal"), {}, {}
    forward = module.CausalVideo.forward

    def note(self, x, step, timestep, first_latent, *told):
        makers.setdefault(step, set()).add((id(self), threading.current_thread().name, tuple(self.rings)))
        due.pop((first_latent // 3, step), lambda: None)()
        return forward(self, x, step, timestep, first_latent, *told)

    monkeypatch.setattr(module.CausalVideo, "forward", note)

    def happens(block, step, what):
        due[block, step] = what

    happens.makers = makers
    return happens


def test_several_gpus_give_the_bytes_of_one_also_when_cancelled(model, vae, output, on, at, caplog):
    """With the anchor replaced behind the fourth block; cancelled on a helper, and gone on with on another number of them."""
    import comfy.model_management

    before = threading.active_count()
    sample(model, vae, run_name="whole")
    at.makers.clear()
    at(4, 2, comfy.model_management.interrupt_current_processing)
    with caplog.at_level(logging.INFO):
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            sample(on(model, 3), vae, run_name="cut")
        assert threading.active_count() == before
        assert len(contents(output, "cut")) == 1
        assert [{rings for *_, rings in at.makers[step]} for step in range(4)] == [{(0,)}, {(1,)}, {(2, 3)}, {(2, 3)}]
        assert len({name for step in range(4) for _, name, _ in at.makers[step]}) == 3, "a thread for each"
        assert "3 GPUs: step 1, decoding | step 2 | steps 3-4" in caplog.text
        sample(on(model, 2), vae, run_name="cut")
        assert "2 GPUs: steps 1-2, decoding | steps 3-4" in caplog.text
    assert contents(output, "cut") == contents(output, "whole")
    assert threading.active_count() == before
    assert not (output / "wan_s2v_runs" / "cut_2").exists(), "another number of GPUs is no other run"


def test_out_of_memory_on_one_gpu_the_others_stop_and_all_go_on_in_less(model, vae, on, at, caplog):
    def no_room():
        raise torch.OutOfMemoryError("of a helper")

    expected = torch.cat(list(sample(model, vae, plan_of(12)).frames()))
    at(1, 3, no_room)
    with caplog.at_level(logging.WARNING):
        found = torch.cat(list(sample(on(model, 5), vae, plan_of(12)).frames()))
    assert "ran out of memory in live sampling (of a helper)" in caplog.text
    assert torch.equal(found, expected)


def test_live_videos_on_several_gpus_leave_nothing(bridge, checkpoint, vae, on):
    """No thread, no copy of the MODEL, no tensor."""
    model, seen = load_ours(bridge, checkpoint), []
    for _ in range(4):
        with bridge.live_team(on(model, 2), vae, bridge.LivePlan(8, 8, steps=2)) as team:
            assert [len(network.rings) for network in team.networks] == [1, 1]
        del team
        seen.append(what_remains())
    assert seen[2:] == [seen[2]] * 2


def test_what_it_costs_on_several_gpus_is_reckoned(bridge, model, vae, on, caplog):
    work = pack_module("wan_s2v_model.cost.live").LiveWork(SIDE, SIDE, 4, 128, played_back=8)
    with caplog.at_level(logging.INFO):
        bridge.place_rings(on(model, 2), vae, work)
    assert "128 blocks of 4 steps and 8 played back" in caplog.text
    assert "2 GPUs like the CPU" in caplog.text
    lines, _ = pack_module("nodes.prepare")._outlook(plan_of(), vae, bridge.GpusAhead(2, {}, ""))
    assert "live: 5 blocks of 4 steps   2 GPUs: steps 1-2, decoding | steps 3-4" in lines


def test_the_gpu_of_the_vae_makes_the_first_steps(bridge, model, vae, on, monkeypatch):
    """It decodes in the thread that samples, in which alone ComfyUI may load models."""
    monkeypatch.setattr(vae, "device", torch.device("cpu", 1))
    with bridge.live_team(on(model, 3), vae, bridge.LivePlan(8, 8)) as team:
        assert [str(device) for device in team.crew.devices] == ["cpu:1", "cpu", "cpu:2"]
