"""A run may only be continued when nothing that decides it has changed."""

import json
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from types import SimpleNamespace

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.audio.features import EncodedAudio, SilenceFeatures
from wan_s2v_pack.wan_s2v_model.audio.speakers import Speaker, Speakers
from wan_s2v_pack.wan_s2v_model.audio.turns import parse_turns
from wan_s2v_pack.wan_s2v_model.conditioning.plan import Continuity, Plan
from wan_s2v_pack.wan_s2v_model.conditioning.prompts import PROMPT_KEY, ScheduledPrompt
from wan_s2v_pack.wan_s2v_model.conditioning.regions import SpeakerRegions
from wan_s2v_pack.wan_s2v_model.conditioning.timeline import plan_timeline
from wan_s2v_pack.wan_s2v_model.origin import made_of
from wan_s2v_pack.wan_s2v_model.runs import fingerprint
from wan_s2v_pack.wan_s2v_model.runs.changes import changes_of
from wan_s2v_pack.wan_s2v_model.runs.earlier import earlier_texts
from wan_s2v_pack.wan_s2v_model.runs.fingerprint import assumed_in_older_runs, hashes_by_clip, run_fingerprint
from wan_s2v_pack.wan_s2v_model.runs.manifest import value_at
from wan_s2v_pack.wan_s2v_model.sampling.guidance import AudioGuidance
from wan_s2v_pack.wan_s2v_model.sampling.step_cache import CachedClips, StepCache, Table


@dataclass(frozen=True)
class Settings:
    steps: int = 40
    cfg: float = 4.5
    shift: float = 3.0
    solver: str = "unipc"
    sampler: object = None
    sigmas: torch.Tensor | None = None
    cfg_start: float = 0.0
    cfg_end: float = 1.0
    vae_warmup: int = 19
    audio: AudioGuidance | None = None
    step_cache: StepCache | None = None


def make_plan(seconds=10, **options):
    timeline = plan_timeline(seconds * 16_000, 16_000, seconds * 16_000, **options)
    return Plan(timeline, 480, 832, torch.ones(2, 3, 160), torch.ones(1, 160_000), 16_000, torch.ones(1, 16, 1, 4, 4))


def network(value):
    layer = torch.nn.Linear(4, 3)
    torch.nn.init.constant_(layer.weight, value)
    torch.nn.init.constant_(layer.bias, value)
    return layer


@pytest.fixture
def inputs(tmp_path):
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    model = SimpleNamespace(
        cached_patcher_init=(None, (str(file), {})), patches={}, model_options={}, wrappers={}, object_patches={}, model=network(1.0)
    )
    vae = SimpleNamespace(vae_dtype=torch.float32, first_stage_model=network(1.0))
    text = [[torch.ones(1, 5, 8), {}]], [[torch.zeros(1, 5, 8), {}]]
    return {"model": model, "positive": text[0], "negative": text[1], "plan": make_plan(), "settings": Settings(), "seed": 42, "vae": vae}


def test_same_inputs_give_the_same_fingerprint_which_is_json(inputs):
    fingerprint = run_fingerprint(**inputs)
    other = {**inputs, "plan": make_plan(), "positive": [[torch.ones(1, 5, 8), {}]]}
    assert run_fingerprint(**other) == fingerprint
    assert json.loads(json.dumps(fingerprint)) == fingerprint


def two_speakers(second=2.0, start=0, turns="", shares=0.5, nobody="silence", is_hard=True, mask_fps=16.0):
    sounds = [EncodedAudio(torch.full((2, 3, 4), value), torch.ones(1, 8), 8, 4) for value in (1.0, second)]
    there = [Speaker(1, torch.ones(1, 4, 4), sounds[0]), Speaker(2, torch.ones(1, 4, 4), sounds[1], start), Speaker(3, torch.ones(1, 4, 4))]
    speakers = Speakers(tuple(there), torch.zeros(2, 3), parse_turns(turns))
    return {"speakers": speakers, "regions": SpeakerRegions(torch.full((4, 1, 2, 2), shares), nobody, is_hard, mask_fps)}


CHANGES = {
    "prompt": lambda i: {"positive": [[torch.full((1, 5, 8), 2.0), {}]]},
    "negative_prompt": lambda i: {"negative": i["positive"]},
    "seed": lambda i: {"seed": 43},
    "steps": lambda i: {"settings": Settings(steps=20)},
    "cfg": lambda i: {"settings": Settings(cfg=1.0)},
    "shift": lambda i: {"settings": Settings(shift=5.0)},
    "cfg_start": lambda i: {"settings": Settings(cfg_start=0.2)},
    "cfg_end": lambda i: {"settings": Settings(cfg_end=0.6)},
    "vae_warmup": lambda i: {"settings": Settings(vae_warmup=4)},
    "audio_guidance": lambda i: {"settings": Settings(audio=AudioGuidance(6.0))},
    "audio_strength": lambda i: {"settings": Settings(audio=AudioGuidance(4.5, strength=0.5))},
    "solver": lambda i: {"settings": Settings(solver="dpm++")},
    "step_cache": lambda i: {"settings": Settings(step_cache=StepCache(0.05, 8))},
    "sigmas": lambda i: {"settings": Settings(sigmas=torch.tensor([1.0, 0.0]))},
    "picture": lambda i: {"plan": replace(i["plan"], ref_latents=torch.zeros(1, 16, 1, 4, 4))},
    "pose": lambda i: {"plan": replace(i["plan"], pose_latents=(torch.zeros(1, 16, 20, 4, 4),))},
    "previous_frames": lambda i: {"plan": replace(i["plan"], history=torch.zeros(73, 8, 8, 3))},
    "vae": lambda i: {"vae": SimpleNamespace(vae_dtype=torch.float32, first_stage_model=network(2.0))},
    "width": lambda i: {"plan": replace(i["plan"], width=848)},
    "height": lambda i: {"plan": replace(i["plan"], height=496)},
    "sync_mode": lambda i: {"plan": replace(i["plan"], timeline=replace(i["plan"].timeline, sync_mode="official"))},
    "frames_per_clip": lambda i: {"plan": replace(i["plan"], timeline=replace(i["plan"].timeline, frames_per_clip=48))},
    "frame_rate": lambda i: {"plan": replace(i["plan"], timeline=replace(i["plan"].timeline, fps=25))},
    "clips": lambda i: {"plan": replace(i["plan"], timeline=replace(i["plan"].timeline, num_clips=2))},
    "latent_anchor": lambda i: {"plan": replace(i["plan"], continuity=Continuity("latent statistics", 0.5))},
    "colour_anchor": lambda i: {"plan": replace(i["plan"], continuity=Continuity("colour transfer"))},
    "seed_policy": lambda i: {"plan": replace(i["plan"], continuity=Continuity(seed_policy="same seed"))},
    "silence": lambda i: {"plan": replace(i["plan"], silence=SilenceFeatures(torch.zeros(2, 3)))},
    "audio_history": lambda i: {"plan": replace(i["plan"], real_audio_history=True)},
    "pose_start": lambda i: {"plan": replace(i["plan"], pose_steps=(0.2, 1.0))},
    "pose_end": lambda i: {"plan": replace(i["plan"], pose_steps=(0.0, 0.6))},
    "speakers": lambda i: {"plan": replace(i["plan"], **two_speakers())},
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_shows_under_its_own_name(inputs, name):
    before = run_fingerprint(**inputs)
    after = run_fingerprint(**{**inputs, **CHANGES[name](inputs)})
    assert {key for key in before if before[key] != after[key]} == {name}


@pytest.mark.parametrize("audio", [None, AudioGuidance(4.5), AudioGuidance(4.5, 0.0, 1.0, 1.0)])
def test_guidance_by_the_sound_like_that_by_the_prompt_is_none_of_its_own(inputs, audio):
    assert run_fingerprint(**{**inputs, "settings": Settings(audio=audio)}) == run_fingerprint(**inputs)


@pytest.mark.parametrize("change", [{"cfg": 3.0}, {"start": 0.2}, {"end": 0.6}])
def test_each_part_of_the_guidance_by_the_sound_shows(inputs, change):
    audio = AudioGuidance(**{"cfg": 4.5, **change})
    assert run_fingerprint(**{**inputs, "settings": Settings(audio=audio)})["audio_guidance"]


def test_times_of_prompts_show(inputs):
    def prompt(**start):
        text = [[torch.ones(1, 5, 8), {}], [torch.zeros(1, 5, 8), {PROMPT_KEY: ScheduledPrompt("b", **start)}]]
        return run_fingerprint(**{**inputs, "positive": text})["prompt"]

    prompts = [prompt(start_clip=2), prompt(start_clip=3), prompt(start_clip=3, blend_clips=2)]
    assert len(set(prompts)) == 3
    assert prompt(start_clip=2) == prompts[0]


def test_pauses_and_what_is_heard_in_them_show(inputs):
    silences = [
        SilenceFeatures(torch.zeros(2, 3)),
        SilenceFeatures(torch.ones(2, 3)),
        SilenceFeatures(torch.zeros(2, 3), frozenset({4})),
        SilenceFeatures(torch.zeros(2, 3), frozenset({5})),
    ]
    seen = {run_fingerprint(**{**inputs, "plan": replace(inputs["plan"], silence=silence)})["silence"] for silence in silences}
    assert len(seen) == len(silences)


@pytest.mark.parametrize(
    "change",
    [{"second": 3.0}, {"start": 1}, {"turns": "0s 1"}, {"shares": 0.25}, {"nobody": "nearest"}, {"is_hard": False}, {"mask_fps": 8.0}],
)
def test_all_that_decides_who_is_heard_shows(inputs, change):
    seen = [run_fingerprint(**{**inputs, "plan": replace(inputs["plan"], **two_speakers(**each))})["speakers"] for each in ({}, {}, change)]
    assert seen[0] == seen[1] != seen[2]


def test_regions_that_another_processor_has_fitted_are_the_same(inputs):
    seen = []
    for share in (0.5, 0.5 + 1e-7):
        plan = replace(inputs["plan"], **two_speakers(shares=share))
        made_of(plan.regions.shares, "regions of two masks")
        seen.append(run_fingerprint(**{**inputs, "plan": plan})["speakers"])
    assert seen[0] == seen[1]


def test_parts_of_a_dubbed_file_that_begin_a_millisecond_apart_differ():
    videos = [SimpleNamespace(file=(BytesIO(b"film"), start_s, 10.0)) for start_s in (1234.567, 1234.567, 1234.568)]
    seen = [fingerprint._content(video) for video in videos]
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize("part", ["audio_features", "waveform"])
def test_other_sound_shows(inputs, part):
    other = replace(inputs["plan"], **{part: getattr(inputs["plan"], part) * 2})
    assert run_fingerprint(**{**inputs, "plan": other})["audio"] != run_fingerprint(**inputs)["audio"]


def test_same_numbers_in_another_shape_show(inputs):
    other = replace(inputs["plan"], audio_features=inputs["plan"].audio_features.reshape(3, 2, 160))
    assert run_fingerprint(**{**inputs, "plan": other})["audio"] != run_fingerprint(**inputs)["audio"]


def test_features_in_another_order_of_memory_are_the_same(inputs):
    other = replace(inputs["plan"], audio_features=inputs["plan"].audio_features.transpose(1, 2).contiguous().transpose(1, 2))
    assert run_fingerprint(**{**inputs, "plan": other})["audio"] == run_fingerprint(**inputs)["audio"]


def test_other_dtype_of_the_vae_shows(inputs):
    before = run_fingerprint(**inputs)["vae"]
    inputs["vae"].vae_dtype = torch.bfloat16
    assert run_fingerprint(**inputs)["vae"] != before


def hook(strength=1.0, keyframes=(), value=1.0):
    """As ComfyUI's LoRA hooks."""
    frames = [SimpleNamespace(strength=scale, start_percent=start, guarantee_steps=1) for scale, start in keyframes]
    weights = {"blocks.0.self_attn.q.lora_up.weight": torch.full((4, 2), value)}
    return SimpleNamespace(_strength_model=strength, hook_keyframe=SimpleNamespace(keyframes=frames), weights=weights)


def test_what_other_nodes_set_on_a_prompt_shows(inputs):
    def hooked(**options):
        return {"hooks": SimpleNamespace(hooks=[hook(**options)])}

    settings = [
        {"start_percent": 0.0, "end_percent": 0.5},
        {"start_percent": 0.0, "end_percent": 0.6},
        {"strength": 0.5},
        {"mask": torch.ones(1, 4, 4)},
        {"mask": torch.zeros(1, 4, 4)},
        hooked(),
        hooked(strength=0.5),
        hooked(value=2.0),
        hooked(keyframes=[(0.0, 0.0), (1.0, 0.3)]),
        hooked(keyframes=[(0.0, 0.0), (1.0, 0.4)]),
    ]
    plain = [run_fingerprint(**inputs)["prompt"], run_fingerprint(**inputs)["negative_prompt"]]
    for name, key in (("positive", "prompt"), ("negative", "negative_prompt")):
        tensor = inputs[name][0][0]
        seen = [run_fingerprint(**{**inputs, name: [[tensor, options]]})[key] for options in settings]
        assert len({*plain, *seen}) == 2 + len(settings)
    given_by_the_encoder = [[inputs["positive"][0][0], {"pooled_output": torch.ones(2), "attention_mask": torch.ones(1, 5)}]]
    assert run_fingerprint(**{**inputs, "positive": given_by_the_encoder})["prompt"] == plain[0]


def test_older_runs_count_as_made_with_the_defaults_of_later_inputs(inputs):
    found = run_fingerprint(**{**inputs, "settings": Settings(cfg_end=0.5)})
    assumed = assumed_in_older_runs(found)
    assert [assumed[name] for name in ("cfg_end", "vae_warmup", "pose_start", "pose_end")] == [1.0, 19, 0.0, 1.0]
    assert assumed["vae"] == found["vae"]


def test_strength_of_no_anchor_decides_nothing(inputs):
    plan = replace(inputs["plan"], continuity=Continuity("off", 0.3))
    assert run_fingerprint(**{**inputs, "plan": plan}) == run_fingerprint(**inputs)


def test_older_runs_were_made_without_an_anchor(inputs):
    plan = replace(inputs["plan"], continuity=Continuity("colour transfer", seed_policy="same seed"))
    assumed = assumed_in_older_runs(run_fingerprint(**{**inputs, "plan": plan}))
    assert (assumed["latent_anchor"], assumed["colour_anchor"], assumed["seed_policy"]) == (0.0, 0.0, "seed + clip")


def test_bfloat16_tensors_are_hashed(inputs):
    half, other = ([[torch.full((1, 5, 8), value, dtype=torch.bfloat16), {}]] for value in (1.0, 2.0))
    seen = [run_fingerprint(**{**inputs, "positive": text})["prompt"] for text in (half, half, other)]
    assert seen[0] == seen[1] != seen[2]


class KSampler:
    """As ComfyUI's: one class for all samplers."""

    def __init__(self, sampler_function, extra_options):
        self.sampler_function = sampler_function
        self.extra_options = extra_options


def sample_euler():
    pass


def sample_heun():
    pass


def test_given_samplers_differ_by_class_function_and_options(inputs):
    class Other:
        pass

    samplers = [KSampler(sample_euler, {}), KSampler(sample_heun, {}), KSampler(sample_euler, {"eta": 0.5}), Other()]
    names = [run_fingerprint(**{**inputs, "settings": Settings(sampler=sampler)})["solver"] for sampler in samplers]
    assert names == ["sample_euler {}", "sample_heun {}", "sample_euler {'eta': 0.5}", "Other {}"]


def test_functions_in_the_options_of_a_sampler_count_by_what_they_remember(inputs):
    """ComfyUI's SamplerSASolver has one, whose address differs in every process."""

    def interval(start, end):
        def tau_func(sigma):
            return start < sigma <= end

        return tau_func

    def solver(*limits):
        settings = Settings(sampler=KSampler(sample_euler, {"tau_func": interval(*limits), "s_noise": 1.0}))
        return run_fingerprint(**{**inputs, "settings": settings})["solver"]

    assert solver(0.2, 0.8) == solver(0.2, 0.8)
    assert solver(0.2, 0.8) != solver(0.2, 0.9)


def scheduled(*values, blend_clips=0):
    """Prompts of one value each, that begin in clips 0, 2, 4 and so on."""
    prompts = [ScheduledPrompt(str(value), start_clip=2 * index, blend_clips=blend_clips) for index, value in enumerate(values)]
    return [[torch.full((1, 5, 8), float(value)), {PROMPT_KEY: prompt}] for value, prompt in zip(values, prompts, strict=True)]


def by_clip(inputs, **changes):
    """Hash of the prompt and of the pose of each of 5 clips."""
    timeline = replace(inputs["plan"].timeline, num_clips=5)
    plan = replace(inputs["plan"], timeline=timeline, pose_latents=changes.get("pose"))
    hashes = hashes_by_clip(changes.get("positive", inputs["positive"]), inputs["negative"], plan)
    return {name: [value_at(spans, clip) for clip in range(5)] for name, spans in hashes.items()}


def test_a_prompt_is_told_clip_by_clip(inputs):
    old, new = (by_clip(inputs, positive=scheduled(1, second, 3))["prompt"] for second in (2, 5))
    assert [a == b for a, b in zip(old, new, strict=True)] == [True, True, False, False, True]
    assert len(set(by_clip(inputs)["prompt"])) == 1


def test_a_blended_prompt_reaches_into_the_clips_behind_its_beginning(inputs):
    old, new = (by_clip(inputs, positive=scheduled(1, second, 3, blend_clips=2))["prompt"] for second in (2, 5))
    assert [a == b for a, b in zip(old, new, strict=True)] == [True, True, False, False, False]


def test_a_pose_is_told_clip_by_clip(inputs):
    poses = [torch.full((1, 16, 20, 4, 4), float(value)) for value in (1, 2, 3)]
    first, other = (by_clip(inputs, pose=(poses[0], poses[0], poses[index], poses[0], poses[0]))["pose"] for index in (1, 2))
    assert [a == b for a, b in zip(first, other, strict=True)] == [True, True, False, True, True]
    assert first[0] == first[1] == first[4]
    assert set(by_clip(inputs)["pose"]) == {None}


def on_another_gpu(inputs, origins=("text", "silent", "sound", "picture")):
    """The same inputs, encoded into other bits."""
    text, negative, sound, picture = origins
    plan = inputs["plan"]
    encoded = {
        "audio_features": made_of(plan.audio_features + torch.rand(()), sound),
        "waveform": made_of(plan.waveform + torch.rand(()), sound),
        "ref_latents": made_of(plan.ref_latents + torch.rand(()), picture),
        "pose_latents": (made_of(torch.rand(1, 16, 20, 4, 4), "pose"),),
        "history": made_of(torch.rand(73, 8, 8, 3), "earlier"),
        "silence": SilenceFeatures(made_of(torch.rand(2, 3), sound), frozenset({4})),
    }
    texts = {"positive": [[made_of(torch.rand(1, 5, 8), text), {}]], "negative": [[made_of(torch.rand(1, 5, 8), negative), {}]]}
    return {**inputs, **texts, "plan": replace(plan, **encoded)}


def test_another_gpu_encodes_other_bits_and_is_no_other_input(inputs):
    here, there = on_another_gpu(inputs), on_another_gpu(inputs)
    assert run_fingerprint(**here) == run_fingerprint(**there)
    texts = ("positive", "negative", "plan")
    assert hashes_by_clip(*(here[name] for name in texts)) == hashes_by_clip(*(there[name] for name in texts))


@pytest.mark.parametrize(("place", "names"), list(enumerate([{"prompt"}, {"negative_prompt"}, {"audio", "silence"}, {"picture"}])))
def test_another_input_shows_on_another_gpu(inputs, place, names):
    origins = ["text", "silent", "sound", "picture"]
    before = run_fingerprint(**on_another_gpu(inputs, origins))
    origins[place] = "another"
    after = run_fingerprint(**on_another_gpu(inputs, origins))
    assert {name for name in before if before[name] != after[name]} == names


def test_a_run_that_named_encodings_by_their_bytes_goes_on(inputs):
    """The manifests of the version before: the same bytes, and no origins."""
    made = on_another_gpu(inputs)
    bare = {**made, "plan": replace(made["plan"], **{name: getattr(made["plan"], name).clone() for name in ("ref_latents", "history")})}
    bare["plan"] = replace(
        bare["plan"],
        audio_features=made["plan"].audio_features.clone(),
        waveform=made["plan"].waveform.clone(),
        pose_latents=tuple(latents.clone() for latents in made["plan"].pose_latents),
        silence=replace(made["plan"].silence, features=made["plan"].silence.features.clone()),
    )
    bare |= {name: [[tensor.clone(), options] for tensor, options in made[name]] for name in ("positive", "negative")}
    old, new = run_fingerprint(**bare), run_fingerprint(**made)
    earlier = earlier_texts(*(made[name] for name in ("model", "positive", "negative", "plan", "vae")))
    assert {name for name in old if old[name] != new[name]} == {
        *("prompt", "negative_prompt", "audio", "picture", "pose", "previous_frames", "silence"),
    }
    assert changes_of(old, new, earlier) == {}


def test_blended_prompts_are_named_by_theirs():
    def blend(second):
        first, later = (ScheduledPrompt(text, start_clip=clip, blend_clips=2) for clip, text in enumerate("ab"))
        entries = [[made_of(torch.rand(1, 5, 8), "a"), {PROMPT_KEY: first}], [made_of(torch.rand(1, 7, 8), second), {PROMPT_KEY: later}]]
        return hashes_by_clip(entries, [[torch.zeros(1, 5, 8), {}]], make_plan())["prompt"]

    assert blend("b") == blend("b") != blend("c")
    assert len(blend("b")) > 1


def test_another_schedule_of_the_step_cache_is_another_run(inputs):
    """A run goes on with the schedule that it began with: who changes the one changes the words for the other, too."""
    table = Table(clip=0, prompt=0, steps=40, guessed=(3, 5), expected=0.04)
    taught = [asdict(replace(table, clip=clip, error=error)) for clip, error in ((0, None), (8, 0.04), (24, 0.04), (56, 0.04))]
    distances = [CachedClips(StepCache(0.05, 8), torch.zeros(41), taught[:count])._distance(0) for count in range(1, 5)]
    words = run_fingerprint(**{**inputs, "settings": Settings(step_cache=StepCache(0.05, 8))})["step_cache"]
    assert (words, distances) == ("error up to 0.05, first compared behind 8 clips", [8, 16, 32, 32])
