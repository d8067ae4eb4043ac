"""A long video: memory must not grow with its length."""

from __future__ import annotations

import pytest

from .graphs import add, find, inputs_of, quick_start

SECONDS = 40
NUM_CLIPS = 9  # of 80 frames, the first one 77
ALLOWED_GROWTH_BYTES = 30 * 2**20


@pytest.mark.slow
def test_memory_is_flat_from_the_third_clip_on(renderer):
    prompt = quick_start(frames_per_clip=80, steps=1)
    inputs_of(prompt, "WanS2VAudioEncode").update(audio=[add(prompt, "StandInAudio", kind="tone", seconds=SECONDS), 0], duration=0)
    sampler = find(prompt, "WanS2VSampler")
    memory = []

    def measure(step):
        if step.node == sampler:
            memory.append(renderer.server.memory_bytes())

    video = renderer.render(prompt, measure)
    assert video.num_frames == SECONDS * 16
    assert len(memory) == NUM_CLIPS
    assert max(memory[3:]) - memory[2] < ALLOWED_GROWTH_BYTES, [round(value / 2**20) for value in memory]
