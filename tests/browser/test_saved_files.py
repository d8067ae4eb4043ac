"""Files of Save Video, dropped on the canvas: what the help page promises."""

from __future__ import annotations

import json

import pytest
import torch
from wan_s2v_pack.wan_s2v_model.media.video_formats import FORMATS
from wan_s2v_pack.wan_s2v_model.media.video_writer import VideoWriter

from .workflows import ALL_NODES, read


@pytest.mark.parametrize("name", FORMATS)
def test_a_dropped_file_gives_the_graph_back(name, tmp_path, person):
    """An MKV is not read by the canvas unless it is called WebM."""
    workflow, video_format = read(ALL_NODES), FORMATS[name]
    path = tmp_path / f"video.{video_format.container}"
    metadata = {"workflow": json.dumps(workflow)}
    with VideoWriter(path, width=64, height=48, fps=16, video_format=video_format, quality=18, metadata=metadata) as writer:
        writer.write(torch.zeros(3, 48, 64, 3))
    person.open_by_drop(path.rename(path.with_suffix(".webm")) if path.suffix == ".mkv" else path, len(workflow["nodes"]))
