"""Several speakers, from their files to the finished video: each region flashes with the clicks of its own sound, and nothing else does.

Only the networks are stand-ins (`stand_ins/flash.py`); the model shows in each token what the pack lets that token hear.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from wan_s2v_pack.cli.comfyui.client import ComfyError, PromptRefused

from .graphs import Prompt, add, add_pose, find, flash_graph, inputs_of
from .sounds import write_wav
from .test_sync import BURST_S, FIVE_CLIPS, FPS, GAP_S, HALF_FRAME_S, centres, loudness

RATES_HZ = 16_000, 44_100
WIDTH, HEIGHT = 128, 64
BORDER = 60  # px; crosses the tokens from 48 to 64, which are three quarters on the left
LEFT, RIGHT, NOBODY = np.s_[:, :, :56], np.s_[:, :40, 72:], np.s_[:, 56:, 72:]  # of the frames [T, H, W], away from edges of the codec
SECONDS = FIVE_CLIPS / FPS
DARK = 6  # levels


def clicks_of(speaker: int, seconds: float = SECONDS) -> np.ndarray:
    """Those of the second speaker lie in the middle between those of the first."""
    times = np.arange(0.3 + GAP_S / 2 * (speaker - 1), seconds - BURST_S, GAP_S)
    return times + 0.37 / FPS * np.arange(len(times)) % (1 / FPS)


def click_sound(times: np.ndarray, seconds: float, rate_hz: int) -> np.ndarray:
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    sound = np.zeros_like(time)
    for centre in times:
        inside = np.abs(time - centre) < BURST_S / 2
        sound[inside] += np.cos(np.pi * (time[inside] - centre) / BURST_S) ** 2 * np.sin(2 * np.pi * 1000 * time[inside])
    return 0.4 * sound


def write_sound(renderer, speaker: int, seconds: float = SECONDS) -> str:
    name, rate_hz = f"speaker_{speaker}_{seconds:g}.wav", RATES_HZ[speaker - 1]
    write_wav(renderer.server.input_directory / name, click_sound(clicks_of(speaker, seconds), seconds, rate_hz), rate_hz)
    return name


def write_mask(renderer, name: str, *parts: tuple[slice, slice], size=(WIDTH, HEIGHT)) -> str:
    mask = np.zeros(size[::-1], np.uint8)
    for rows, columns in parts:
        mask[rows, columns] = 255
    Image.fromarray(mask).convert("RGB").save(renderer.server.input_directory / name)
    return name


def load_mask(prompt: Prompt, name: str) -> list:
    return [add(prompt, "LoadImageMask", image=name, channel="red"), 0]


def speakers_graph(renderer, sounds: list[str], **changes) -> Prompt:
    """The graph of the stand-ins with a sound for each speaker; the inputs of Speakers are left to the test."""
    Image.new("RGB", (WIDTH, HEIGHT), "grey").save(renderer.server.input_directory / "two.png")
    prompt = flash_graph(cfg=1.0, quality=10, width=WIDTH, height=HEIGHT, **changes)
    inputs_of(prompt, "LoadImage")["image"] = "two.png"
    encode = inputs_of(prompt, "WanS2VAudioEncode")
    prepare = inputs_of(prompt, "WanS2VPrepare")
    settings = {"nobody": "silence", "feather": 0, "turns": "", "mask_fps": 16.0}
    settings |= {f"{kind}_{number}": 0.0 for kind in ("start", "gain") for number in range(1, 5)} | {f"box_{n}": "" for n in range(1, 5)}
    first = find(prompt, "WanS2VAudioEncode")
    prepare["encoded_audio"] = [add(prompt, "WanS2VSpeakers", audio_encoder=encode["audio_encoder"], **settings), 0]
    for number, sound in enumerate(sounds, start=1):
        node = first if number == 1 else add(prompt, "WanS2VAudioEncode", **encode)
        prompt[node]["inputs"]["audio"] = [add(prompt, "LoadAudio", audio=sound), 0]
        inputs_of(prompt, "WanS2VSpeakers")[f"encoded_audio_{number}"] = [node, 0]
    return prompt


def dialogue(renderer, **changes) -> Prompt:
    """Two speakers with masks; the bottom right belongs to nobody."""
    prompt = speakers_graph(renderer, [write_sound(renderer, 1), write_sound(renderer, 2)], **changes)
    left = write_mask(renderer, "left.png", (slice(None), slice(None, BORDER)))
    right = write_mask(renderer, "right.png", (slice(None, 48), slice(BORDER, None)))
    inputs_of(prompt, "WanS2VSpeakers").update(mask_1=load_mask(prompt, left), mask_2=load_mask(prompt, right))
    return prompt


def level(video, region) -> np.ndarray:
    return video.luma[region].astype(np.float64).mean(axis=(1, 2))


def flashes(video, region, times: np.ndarray) -> np.ndarray:
    """Seconds by which the flashes of a region come before the clicks."""
    bright = level(video, region)
    return times - centres(video.frame_times + HALF_FRAME_S, np.maximum(bright - bright.min() - 4, 0), times)


def check(video, regions=((LEFT, 1), (RIGHT, 2))) -> None:
    assert video.num_frames == FIVE_CLIPS
    for region, speaker in regions:
        lead = flashes(video, region, clicks_of(speaker))
        assert np.abs(lead).max() < HALF_FRAME_S, lead * 1000
        others = [np.abs(video.frame_times + HALF_FRAME_S - time).argmin() for time in clicks_of(3 - speaker)]
        assert level(video, region)[others].max() < level(video, region).min() + DARK, "the other's clicks are not seen"
    assert np.ptp(level(video, NOBODY)) < DARK, "nothing flashes outside"


def test_each_region_flashes_with_its_own_sound_in_every_clip(renderer):
    video = renderer.render(dialogue(renderer, filename_prefix="speakers/two"))
    check(video)
    border = video.luma[:, :40, 48:64].astype(float).mean(axis=(1, 2))  # the tokens that the border crosses belong to the left
    assert np.corrcoef(border, level(video, LEFT))[0, 1] > 0.99
    times, amplitude = loudness(video)
    both = np.concatenate([clicks_of(1), clicks_of(2)])
    played = sum(np.cos(np.pi * (times - time) / BURST_S) ** 2 * (np.abs(times - time) < BURST_S / 2) for time in both)
    assert np.corrcoef(amplitude, played)[0, 1] > 0.98, "the file plays both"


def test_a_run_that_was_cancelled_goes_on_with_its_speakers_and_with_a_pose(renderer):
    prompt = dialogue(renderer, run_name="speakers", filename_prefix="speakers/continued", steps=40)
    add_pose(prompt, images=[add(prompt, "StandInImages", count=FIVE_CLIPS), 0])
    sampler = find(prompt, "WanS2VSampler")
    renderer.cancel(prompt, lambda step: step.node == sampler and step.value > 40)
    check(renderer.render(prompt))
    inputs_of(prompt, "WanS2VSampler")["if_changed"] = "stop"
    inputs_of(prompt, "WanS2VSpeakers")["nobody"] = "nearest"
    with pytest.raises(ComfyError, match="speakers"):
        renderer.render(prompt)


def test_masks_move_with_time(renderer):
    """Speaker 1 is on the left, and from the middle of the video on the right; a film of masks says so."""
    prompt = speakers_graph(renderer, [write_sound(renderer, 1)], filename_prefix="speakers/moving")
    half = FIVE_CLIPS // 2
    moving = renderer.server.input_directory / "moving.mkv"
    write_moving(moving, half)
    frames = add(prompt, "GetVideoComponents", video=[add(prompt, "LoadVideo", file="moving.mkv"), 0])
    mask = add(prompt, "ImageToMask", image=[frames, 0], channel="red")
    inputs_of(prompt, "WanS2VSpeakers")["mask_1"] = [mask, 0]
    video = renderer.render(prompt)
    left, right = level(video, LEFT), level(video, np.s_[:, :, 72:])
    assert np.ptp(left[:half]) > 50 < np.ptp(right[half + 4 :])
    assert np.ptp(right[:half]) < DARK > np.ptp(left[half + 4 :])


def write_moving(path, half: int) -> None:
    import av

    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgr0"
        for number in range(FIVE_CLIPS):
            picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
            picture[:, slice(None, 64) if number < half else slice(64, None)] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def test_one_recording_by_turns_and_a_later_start(renderer):
    """Both hear the same recording, each in its turn; the third part begins later, and the file plays it there."""
    both = write_sound(renderer, 1)
    prompt = speakers_graph(renderer, [both, both], filename_prefix="speakers/turns")
    speakers = inputs_of(prompt, "WanS2VSpeakers")
    speakers |= {"box_1": "0 0 60 64", "box_2": "50% 0 50% 75%", "turns": "0:00 1\n2.0s 2\n0:03.5 nobody"}
    video = renderer.render(prompt)
    frames, times = video.frame_times + HALF_FRAME_S, clicks_of(1)
    for region, first, last in ((LEFT, 0, 2.0), (RIGHT, 2.0, 3.5)):
        mine = times[(times > first + BURST_S / 2) & (times < last - BURST_S / 2)]
        assert np.abs(flashes(video, region, mine)).max() < HALF_FRAME_S
        outside = (frames < first) | (frames > last)
        assert level(video, region)[outside].max() < level(video, region).min() + DARK
    _, amplitude = loudness(video)
    assert amplitude[3600:].max() < 0.01 < amplitude[2000:3400].max()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mask_2": ("small.png", (64, 32))}, "The mask of speaker 2 has 64x32 pixels, and the picture 128x64"),
        ({"mask_2": ("empty.png", None)}, "The mask of speaker 2 is empty"),
        ({"mask_2": None, "box_2": "0 0 100% 100%"}, "The regions of speakers 1 and 2 overlap"),
        ({"mask_2": None}, "Speaker 2 has a sound, but no place"),
        ({"box_1": "0 0 10 10"}, "Speaker 1 has both a mask and a box"),
        ({"encoded_audio_1": None, "encoded_audio_2": None}, "Nobody has a sound"),
        ({"turns": "0:00 3"}, "The turns name speaker 3, who has no sound"),
    ],
)
def test_bad_input_is_told_before_anything_is_sampled(renderer, changes, words):
    prompt = dialogue(renderer)
    speakers = inputs_of(prompt, "WanS2VSpeakers")
    for name, value in changes.items():
        if value is None:
            speakers.pop(name)
        elif isinstance(value, tuple):
            file, size = value
            part = () if size is None else ((slice(None), slice(40, None)),)
            speakers[name] = load_mask(prompt, write_mask(renderer, file, *part, size=size or (WIDTH, HEIGHT)))
        else:
            speakers[name] = value
    with pytest.raises(ComfyError, match=words) as failed:
        renderer.render(prompt)
    assert failed.value.node_type in ("WanS2VSpeakers", "WanS2VPrepare")


@pytest.mark.parametrize("changes", [{"turns": "now 1"}, {"turns": "0:05 1"}, {"box_3": "1 2 3"}])
def test_texts_that_cannot_be_read_are_refused(renderer, changes):
    prompt = dialogue(renderer)
    inputs_of(prompt, "WanS2VSpeakers").update(changes)
    with pytest.raises(PromptRefused):
        renderer.render(prompt)


def test_a_listener_and_more_masks_than_sounds(renderer):
    prompt = dialogue(renderer, filename_prefix="speakers/listener")
    inputs_of(prompt, "WanS2VSpeakers").pop("encoded_audio_2")
    before = len(renderer.server.log_text())
    video = renderer.render(prompt)
    assert np.ptp(level(video, RIGHT)) < DARK < np.ptp(level(video, LEFT))
    assert "speaker 2 has a place in the picture and no sound: it listens in silence" in renderer.server.log_text()[before:]


def test_one_speaker_everywhere_is_the_video_without_the_node(renderer):
    prompt = speakers_graph(renderer, [write_sound(renderer, 1)], filename_prefix="speakers/alone")
    alone = renderer.render(prompt).luma
    inputs_of(prompt, "WanS2VPrepare")["encoded_audio"] = [find(prompt, "WanS2VAudioEncode"), 0]
    assert np.array_equal(renderer.render(prompt).luma, alone)
