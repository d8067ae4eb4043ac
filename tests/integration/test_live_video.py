"""The video in progress on the sampler node."""

from __future__ import annotations

import asyncio
import json

import aiohttp

from .graphs import THREE_CLIPS, find, quick_start
from .rendering import open_video

NAME = "in_progress.mp4"


async def messages(client, prompt) -> list[dict]:
    """Everything that the browser would be told while a prompt runs."""
    told = []
    address = f"{client.url.replace('http', 'ws', 1)}/ws?clientId={client.client_id}"
    async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
        prompt_id = client.queue(prompt)
        async for message in socket:
            if message.type != aiohttp.WSMsgType.TEXT:
                continue
            event = json.loads(message.data)
            if event.get("data", {}).get("prompt_id") != prompt_id:
                continue
            told.append(event)
            if event["type"] == "executing" and event["data"]["node"] is None:
                break
    return told


def test_it_is_shown_after_every_clip_and_plays(renderer):
    prompt = quick_start(seed=300, run_name="live", filename_prefix="live/saved", **THREE_CLIPS)
    sampler = find(prompt, "WanS2VSampler")
    told = asyncio.run(messages(renderer.client, prompt))
    shown = [event["data"] for event in told if event["type"] == "executed" and event["data"]["node"] == sampler]
    assert len(shown) == 3
    for data in shown:
        assert data["display_node"] == sampler
        assert data["output"] == {"images": [{"filename": NAME, "subfolder": "wan_s2v_runs/live", "type": "output"}], "animated": [True]}
    video = open_video(renderer.server.output_directory / "wan_s2v_runs" / "live" / NAME)
    assert video.num_frames == 40
    assert abs(video.sound_seconds - video.picture_seconds) <= 1 / 16
