"""Long videos and many prompts: memory must not grow with them."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from .graphs import add, find, flash_graph, inputs_of, quick_start

SECONDS = 40
NUM_CLIPS = 9  # of 80 frames, the first one 77
SIDE = 256  # px
ALLOWED_GROWTH_BYTES = 45 * 2**20  # keeping the frames of clips 4 to 7 would take 60 MiB as bytes, 240 MiB as float32
NUM_PROMPTS = 10
GROWTH_OF_SEVEN_PROMPTS_BYTES = 25 * 2**20  # one copy of the tiny transformer takes 13 MiB in bfloat16
INTERVAL_S = 0.02


class MemoryWatch:
    """Least memory of the server during each clip."""

    def __init__(self, server) -> None:
        self.server = server
        self.clip = 0
        self.least: defaultdict[int, list[int]] = defaultdict(list)

    @contextmanager
    def running(self) -> Iterator[None]:
        ended = threading.Event()
        thread = threading.Thread(target=self._watch, args=(ended,))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _watch(self, ended: threading.Event) -> None:
        while not ended.wait(INTERVAL_S):
            self.least[self.clip].append(self.server.memory_bytes())

    def per_clip(self) -> list[int]:
        return [min(values) for _, values in sorted(self.least.items())]


@pytest.mark.slow
def test_memory_is_flat_from_the_third_clip_on(renderer):
    """With stand-ins for the networks, which allow frames so large that keeping them would show."""
    prompt = flash_graph(frames_per_clip=80, steps=1, width=SIDE, height=SIDE)
    inputs_of(prompt, "WanS2VAudioEncode")["audio"] = [add(prompt, "StandInAudio", kind="tone", seconds=SECONDS), 0]
    sampler = find(prompt, "WanS2VSampler")
    watch = MemoryWatch(renderer.server)

    def count_clips(step):
        if step.node == sampler:
            watch.clip = int(step.value)

    with watch.running():
        video = renderer.render(prompt, count_clips)
    assert video.num_frames == SECONDS * 16
    memory = watch.per_clip()
    assert len(memory) == 1 + NUM_CLIPS
    assert min(memory[-3:-1]) - memory[3] < ALLOWED_GROWTH_BYTES, [round(value / 2**20) for value in memory]


@pytest.mark.slow
def test_ten_prompts_in_a_row_do_not_grow_memory(renderer):
    memory = []
    for index in range(NUM_PROMPTS):
        prompt = quick_start(seed=index)
        inputs_of(prompt, "WanS2VTextEncode")["prompt"] = f"Take {index}: a person talks."
        renderer.client.run(prompt)
        memory.append(renderer.server.memory_bytes())
    assert min(memory[-2:]) - min(memory[1:3]) < GROWTH_OF_SEVEN_PROMPTS_BYTES, [round(value / 2**20) for value in memory]
