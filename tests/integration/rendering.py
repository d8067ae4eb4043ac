"""Run a prompt that ends in one video file and look into that file."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from wan_s2v_pack.cli.comfyui.client import ComfyClient, OutputFile, Progress, PromptInterrupted, Stage, Text
from wan_s2v_pack.cli.comfyui.server import ComfyServer

from .graphs import Prompt

MOST_CANCEL_S = float(os.environ.get("WAN_S2V_CANCEL_S", "inf"))


@dataclass(frozen=True)
class Video:
    """What a video file holds.

    Attributes:
        luma: [T, H, W] uint8; frame_times: [T] seconds.
        sound: [samples] mean of the channels, sample 0 at second 0.
    """

    path: Path
    video_codec: str
    audio_codec: str
    fps: Fraction
    luma: np.ndarray
    frame_times: np.ndarray
    sound: np.ndarray
    sample_rate: int
    metadata: dict[str, str]

    @property
    def num_frames(self) -> int:
        return len(self.luma)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.luma.shape[2], self.luma.shape[1]

    @property
    def picture_seconds(self) -> float:
        return float(self.num_frames / self.fps)

    @property
    def sound_seconds(self) -> float:
        return len(self.sound) / self.sample_rate

    def stored_json(self, key: str) -> Any:
        return json.loads(self.metadata[key])


class Renderer:
    """Queues prompts on the session's server and finds what they wrote."""

    def __init__(self, server: ComfyServer, client: ComfyClient) -> None:
        self.server = server
        self.client = client

    def render(self, prompt: Prompt, on_progress: Callable[[Progress], None] | None = None, **options: Any) -> Video:
        """Run a prompt with one video output."""
        return open_video(self.video_path(self.client.run(prompt, on_progress, **options)))

    def cancel(
        self,
        prompt: Prompt,
        when: Callable[[Progress], bool] = lambda step: False,
        *,
        at_node: str | None = None,
        at_text: str | None = None,
    ) -> PromptInterrupted:
        """Run a prompt and cancel it at the first step that fits, or when a node starts or shows a text; return how it ended.

        WAN_S2V_CANCEL_S is how many seconds that may take, on a machine that is not busy; without it they are only printed.
        """
        prompt_id, pressed_s = str(uuid.uuid4()), []

        def watch(news: Progress | Stage | Text) -> None:
            if isinstance(news, Progress):
                fits = when(news)
            else:
                fits = news.node == at_node if isinstance(news, Stage) else at_text is not None and at_text in news.text
            if fits:
                pressed_s.append(time.monotonic())
                self.client.interrupt(prompt_id)

        with pytest.raises(PromptInterrupted) as stopped:
            self.client.run(prompt, watch, on_stage=watch, on_text=watch, prompt_id=prompt_id)
        seconds = time.monotonic() - pressed_s[0]
        print(f"cancelled in {stopped.value.node_type}, which took {seconds:.2f} s")
        assert seconds < MOST_CANCEL_S
        return stopped.value

    def video_path(self, outputs: dict[str, Any]) -> Path:
        """The only video among the outputs of a prompt."""
        (path,) = self.video_paths(outputs)
        return path

    def video_paths(self, outputs: dict[str, Any]) -> list[Path]:
        """Every video among the outputs of a prompt; pictures are marked as not animated, and may stand for a video beside them."""
        shown = (node.get("video") or (node["images"] if any(node.get("animated", ())) else ()) for node in outputs.values())
        files = (OutputFile(**item) for items in shown for item in items)
        return [file.path(self.server.base_directory) for file in files]

    def output_files(self) -> set[Path]:
        """Everything in the output folder, half-written files included."""
        return {path for path in self.server.output_directory.rglob("*") if path.is_file()}


def open_video(path: Path) -> Video:
    """Decode a whole file."""
    with av.open(path) as container:
        picture, sound = container.streams.video[0], container.streams.audio[0]
        facts = {"video_codec": picture.codec_context.name, "audio_codec": sound.codec_context.name, "fps": picture.average_rate}
        metadata = dict(container.metadata)
        frames, times, pieces = [], [], []
        for frame in container.decode(picture, sound):
            if isinstance(frame, av.VideoFrame):
                frames.append(frame.to_ndarray(format="gray"))
                times.append(float(frame.pts * frame.time_base))
            else:
                pieces.append((float(frame.pts * frame.time_base), frame.to_ndarray()))
        rate = sound.codec_context.sample_rate
    return Video(
        path=path,
        luma=np.stack(frames),
        frame_times=np.array(times),
        sound=_place(pieces, rate),
        sample_rate=rate,
        metadata=metadata,
        **facts,
    )


def _place(pieces: list[tuple[float, np.ndarray]], rate: int) -> np.ndarray:
    """Lay decoded pieces of sound at their times; what lies before second 0 is not played."""
    end = max(round(start * rate) + piece.shape[1] for start, piece in pieces)
    sound = np.zeros(end, dtype=np.float32)
    for start, piece in pieces:
        first = round(start * rate)
        mono = piece.mean(axis=0)[max(0, -first) :]
        first = max(0, first)
        sound[first : first + len(mono)] = mono
    return sound
