"""The options of `doctor --compare`."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import yaml
from wan_s2v_pack.cli import doctor
from wan_s2v_pack.cli.compare.options import side

FORM = Path(__file__).resolve().parents[4] / ".github" / "ISSUE_TEMPLATE" / "real_weights.yml"


def parse(*arguments):
    parser = argparse.ArgumentParser()
    doctor.add_parser(parser.add_subparsers())
    return parser.parse_args(["doctor", *arguments])


def test_without_options_nothing_is_compared():
    options = parse()
    assert not options.compare
    assert (options.model, options.steps, options.side, options.seconds) == (None, 10, 384, 4.8)


def test_files_are_named_as_for_predict():
    options = parse("--compare", "--model", "a", "--text-encoder", "b", "--audio-encoder", "c", "--vae", "d", "--side", "512")
    assert options.compare
    assert (options.model, options.text_encoder, options.audio_encoder, options.vae, options.side) == ("a", "b", "c", "d", 512)


@pytest.mark.parametrize("text", ["100", "0", "-64"])
def test_side_is_a_multiple_of_64(text):
    with pytest.raises(argparse.ArgumentTypeError, match=f"multiple of 64, got {text}"):
        side(text)


def test_the_issue_form_takes_the_block():
    form = yaml.safe_load(FORM.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= form.keys()
    assert "python -m cli doctor --compare" in form["description"]
    fields = {item["id"]: item for item in form["body"] if item["type"] != "markdown"}
    assert fields["block"]["validations"]["required"]
    assert fields["block"]["attributes"]["render"] == "text"  # no Markdown: the columns stay
