"""Names of new files are taken by one of several processes, and nothing is written through a link."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from wan_s2v_pack.wan_s2v_model.files import TAKEN_S, make_way, part_of, remove_abandoned, take_name, written_whole

CODE = """
import sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from wan_s2v_model.files import take_name
folder, number = Path(sys.argv[1]), 0
while time.time() < float(sys.argv[2]):
    pass
for _ in range(20):
    while not take_name(folder / f"x_{{number:05}}_.mp4"):
        number += 1
    print(number)
"""


def test_of_several_processes_each_gets_its_own_numbers(tmp_path):
    """Before, both took the same number and wrote into one file."""
    code = CODE.format(root=str(Path(__file__).resolve().parents[2]))
    command = [sys.executable, "-c", code, str(tmp_path), str(time.time() + 2)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    numbers = [number for process in processes for number in process.communicate(timeout=60)[0].split()]
    assert len(numbers) == 60
    assert len(set(numbers)) == 60


def test_a_name_that_is_there_is_not_taken(tmp_path):
    (tmp_path / "x.mp4").touch()
    assert not take_name(tmp_path / "x.mp4")
    assert not part_of(tmp_path / "x.mp4").exists()
    assert take_name(tmp_path / "y.mp4")
    assert not take_name(tmp_path / "y.mp4")


def test_a_name_that_was_just_taken_is_not_abandoned(tmp_path):
    assert take_name(tmp_path / "x.mp4")
    part = part_of(tmp_path / "x.mp4")
    remove_abandoned([part])
    assert part.exists()
    long_ago = time.time() - TAKEN_S - 1
    os.utime(part, (long_ago, long_ago))
    remove_abandoned([part])
    assert not part.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right there")
def test_nothing_is_written_through_links(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "x.json.tmp").symlink_to(precious)
    with written_whole(tmp_path / "x.json") as file:
        file.write(b"new")
    (tmp_path / "y.mp4").symlink_to(precious)
    make_way(tmp_path / "y.mp4")
    os.link(precious, tmp_path / "z.mp4")
    make_way(tmp_path / "z.mp4")
    make_way(tmp_path / "nothing")
    assert precious.read_text() == "precious"
    assert (tmp_path / "x.json").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious", "x.json"]
