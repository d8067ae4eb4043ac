"""A job is read and checked before it is queued, with all that is wrong in words."""

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from wan_s2v_pack.cli.fleet.job_lines import Job, JobError, inputs_of, parse, read_jobs

NOW = datetime(2026, 12, 1, 12, tzinfo=timezone.utc)


def test_options_are_those_of_predict(files, tmp_path):
    line = {**files, "run_name": "song", "steps": 20, "size": "832x480", "fast": True, "set": ["WanS2VPrepare.sync_mode=official"]}
    job = Job.of({**line, "lora": ["a.safetensors:0.5", "b.safetensors"], "start": 1.5})
    options = parse(job.line)
    assert (job.name, options.run_name, options.steps, options.fast, options.start) == ("song", "song", 20, True, 1.5)
    assert options.size == {"size": "custom", "size.width": 832, "size.height": 480}
    assert [(lora.name, lora.strength) for lora in options.lora] == [("a.safetensors", 0.5), ("b.safetensors", 1.0)]
    assert options.changes == ["WanS2VPrepare.sync_mode=official"]
    assert options.output.suffix == ".mp4"


def test_a_line_may_be_read_again_where_it_is_made(files):
    job = Job.of({**files, "retries": 5, "priority": 7})
    assert Job.of(job.line).line == job.line
    assert Job.of(job.line).retries == 5
    assert json.loads(json.dumps(job.line)) == job.line


def test_the_same_options_have_the_same_name(files):
    assert Job.of(files).name == Job.of({**files, "priority": 9}).name
    assert Job.of(files).name != Job.of({**files, "seed": 2}).name


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image": None}, "image is missing"),
        ({"stpes": 3}, "there is no option stpes; there are audio"),
        ({"server": "http://x"}, "there is no option server"),
        ({"steps": "many"}, "steps: invalid int value"),
        ({"steps": True}, "steps must be a text or a number, got True"),
        ({"frames": 7}, "frames: must be a multiple of"),
        ({"size": "huge"}, "size: must be 480p, 720p or WxH"),
        ({"output": "talk"}, "output: must be the name of a file"),
        ({"fast": "yes"}, "fast must be true or false"),
        ({"priority": 10}, "priority must be a whole number from 0 to 9, got 10"),
        ({"retries": -1}, "retries must be a whole number"),
        ({"deadline": "soon"}, "deadline must be seconds from now or a time"),
        ({"run_name": "../x"}, "run-name '../x' is no name for a run"),
        ({"image": "nowhere.png"}, "there is no file"),
        ({"audio": None}, "audio is missing"),
        ({"speaker": [{"sound": "a.wav"}]}, "speaker must be a list of objects"),
        ({"speaker": [{"sound": "nowhere.wav", "box": "0,0,50%,100%"}]}, "there is no file"),
        ({"speaker": [{"box": "0,0,50%,100%"}]}, "speaker: nobody has a sound"),
        ({"live": True, "steps": 20}, "steps must be 4 or 3 with --live, got 20"),
        ({"live": True, "output": "-"}, "output must be the name of a file, got -"),
        ({"video": "nowhere.mp4"}, "there is no file"),
        ({"image": "s4://x/y.png"}, "s4://x/y.png cannot be reached"),
    ],
)
def test_what_is_wrong_is_said(files, change, says):
    with pytest.raises(JobError, match=f"^line 1: .*{says}"):
        read_jobs([json.dumps({**files, **change})])


def test_all_lines_that_are_wrong_are_said(files):
    with pytest.raises(JobError) as caught:
        read_jobs(
            ["{", "", json.dumps(files), "[]", json.dumps({**files, "run_name": "a"}), json.dumps({**files, "run_name": "a", "seed": 2})]
        )
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["line 1", "line 4", "line 6"]
    assert lines[2].endswith("run-name a is that of another line")


def test_empty_lines_and_repeated_ones_are_left_out(files):
    assert len(read_jobs(["", json.dumps(files), json.dumps(files)])) == 1


@pytest.mark.parametrize(
    ("deadline", "expires"),
    [
        (None, None),
        (90, NOW + timedelta(seconds=90)),
        ("2026-12-01T18:00:00Z", NOW + timedelta(hours=6)),
        ("2026-12-01T18:00:00+02:00", NOW + timedelta(hours=4)),
    ],
)
def test_deadlines(files, deadline, expires):
    assert Job.of({**files, "deadline": deadline}, NOW).expires == expires


def test_paths_are_whole_and_addresses_stay(files, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    job = Job.of({"image": "me.png", "audio": "s3://bucket/me.wav", "output": "memory://out/talk.webm"})
    assert job.line["image"] == files["image"]
    assert (job.line["audio"], job.line["output"]) == ("s3://bucket/me.wav", "memory://out/talk.webm")


def test_speakers_have_sounds_and_places_of_their_own(files, tmp_path):
    first, second = {"sound": files["audio"], "box": "0,0,50%,100%"}, {"sound": "s3://in/b.wav", "mask": files["image"]}
    job = Job.of({"image": files["image"], "output": files["output"], "speaker": [first, second]})
    assert inputs_of(job.line) == {
        "image": files["image"],
        "speaker 1 sound": files["audio"],
        "speaker 2 sound": "s3://in/b.wav",
        "speaker 2 mask": files["image"],
    }
    here = {name: Path(files["image" if name[-1] in "ek" else "audio"]) for name in inputs_of(job.line)}
    speakers = parse(job.line, here).speakers
    assert [(speaker.sound, speaker.place) for speaker in speakers] == [
        (Path(files["audio"]), "0,0,50%,100%"),
        (Path(files["audio"]), Path(files["image"])),
    ]


def test_a_job_may_be_a_dub_or_live(files):
    dub = Job.of({"audio": files["audio"], "output": files["output"], "video": files["image"], "video_mask": "s3://in/mask.png"})
    assert inputs_of(dub.line) == {"audio": files["audio"], "video": files["image"], "video-mask": "s3://in/mask.png"}
    options = parse(dub.line, {name: Path(files["image"]) for name in inputs_of(dub.line)})
    assert (options.image, options.video, options.video_mask) == (None, Path(files["image"]), Path(files["image"]))
    assert parse(Job.of({**files, "live": True}).line).live
