"""Pictures that are converted before they are uploaded, because a server may not read them, and those that are refused in words."""

from unittest.mock import Mock

import pytest
from PIL import Image
from wan_s2v_pack.cli.comfyui.client import PromptInterrupted
from wan_s2v_pack.cli.predict.graph import Request, quick_start
from wan_s2v_pack.cli.predict.job import make_video
from wan_s2v_pack.cli.predict.object_info import PromptError
from wan_s2v_pack.cli.predict.options import SOUND
from wan_s2v_pack.cli.predict.picture import readable_picture

ORIENTATION, ON_ITS_SIDE = 0x112, 6


@pytest.fixture
def picture():
    image = Image.new("RGB", (6, 4), (200, 40, 40))
    image.putpixel((0, 0), (40, 40, 200))
    return image


def read(path, folder):
    said = []
    return readable_picture(path, folder, said.append), said


@pytest.mark.parametrize("name", ["me.png", "me.jpg", "me.webp", "me.bmp", "me.gif"])
def test_what_every_comfyui_reads_is_uploaded_as_it_is(name, picture, tmp_path):
    picture.save(tmp_path / name)
    assert read(tmp_path / name, tmp_path / "copies") == (tmp_path / name, [])


@pytest.mark.parametrize(("name", "kind"), [("me.ico", "ICO"), ("me.tif", "TIFF"), ("me.tga", "TGA")])
def test_another_kind_becomes_a_png(name, kind, picture, tmp_path):
    (tmp_path / "copies").mkdir()
    picture.save(tmp_path / name)
    copy, said = read(tmp_path / name, tmp_path / "copies")
    assert copy == tmp_path / "copies" / "me.png"
    assert said == [f"{name}: not every ComfyUI reads {kind}, so a PNG of it is uploaded"]
    with Image.open(copy) as image:
        assert image.convert("RGB").getpixel((5, 3)) == (200, 40, 40)


def test_a_converted_picture_stands_upright_and_stays_transparent(picture, tmp_path):
    (tmp_path / "copies").mkdir()
    exif = picture.getexif()
    exif[ORIENTATION] = ON_ITS_SIDE
    picture.putalpha(7)
    picture.save(tmp_path / "me.tif", exif=exif)
    with Image.open(read(tmp_path / "me.tif", tmp_path / "copies")[0]) as image:
        assert image.size == (4, 6)
        assert image.getpixel((3, 0)) == (40, 40, 200, 7)
        assert ORIENTATION not in image.getexif()


@pytest.mark.parametrize("content", [b"", b"\0\0\0\x18ftypheic\0\0\0\0heicmif1", b"RIFF\0\0\0\0WEBPVP8 "])
def test_what_is_no_picture_here_is_said(content, tmp_path):
    (tmp_path / "me.heic").write_bytes(content)
    with pytest.raises(PromptError, match=r"me\.heic is no picture that can be read.*\. Convert it to PNG or JPEG"):
        read(tmp_path / "me.heic", tmp_path)


def test_a_job_uploads_the_copy(picture, tmp_path):
    picture.save(tmp_path / "me.tif")
    nodes = {node["class_type"]: node["inputs"] for node in quick_start().values()}
    client, uploaded = Mock(), []
    client.object_info.return_value = {
        name: {"input": {"required": {key: [[value], {}] for key, value in inputs.items()}}} for name, inputs in nodes.items()
    }
    client.upload.side_effect = lambda path: uploaded.append(path.name) or path.name
    client.run.side_effect = PromptInterrupted("that is all")
    with pytest.raises(PromptInterrupted):
        make_video(client, Request(image=tmp_path / "me.tif", audio=SOUND), lambda text: None)
    assert uploaded == ["me.png", SOUND.name]
