"""What ComfyUI hands out of our texts: descriptions, translations, help pages and their pictures."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
from wan_s2v_pack.scripts.records.help_pages import page_path, read_page
from wan_s2v_pack.scripts.records.node_texts import CONTROL, node_texts, read_locale
from wan_s2v_pack.scripts.records.schemas import is_file_list

MODULE = "custom_nodes.wan_s2v"
CHINESE_COLON = "\uff1a"
FEW = 8  # more are ComfyUI's samplers


def fetch(url: str) -> bytes:
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=30) as response:
        return response.read()


def test_translations_reach_the_front_end(server):
    """Of the server's languages ours are two; other packs may bring more."""
    languages = json.loads(fetch(f"{server.url}/i18n"))
    for language in ("en", "zh"):
        ours = {node: texts for node, texts in languages[language]["nodeDefs"].items() if node.startswith("WanS2V")}
        assert ours == read_locale(language)
        assert languages[language]["nodeCategories"].items() >= read_locale(language, "main.json")["nodeCategories"].items()


def test_english_is_what_the_server_says(client):
    """The texts that the other tests read from the source are those of the schemas."""
    nodes = {name: info for name, info in client.object_info().items() if info["python_module"] == MODULE}
    said = {}
    for name, info in nodes.items():
        inputs = {key: spec[1]["tooltip"] for group in ("required", "optional") for key, spec in info["input"].get(group, {}).items()}
        said[name] = {
            "display_name": info["display_name"],
            "description": info["description"],
            "inputs": inputs,
            "outputs": list(zip(info["output_name"], info["output_tooltips"], strict=True)),
        }
    read = {
        name: {
            **texts,
            "inputs": {key: entry["tooltip"] for key, entry in texts["inputs"].items() if key != CONTROL},
            "outputs": [(entry["name"], entry["tooltip"]) for entry in texts["outputs"].values()],
        }
        for name, texts in node_texts().items()
    }
    assert said == read
    assert all(info["search_aliases"] for info in nodes.values())


def test_tooltips_name_the_choices(client):
    """Choices are shown as they are in every language, so each text about them names them as they are."""
    english, chinese = read_locale("en"), read_locale("zh")
    missing = []
    for name, info in client.object_info().items():
        for key, choices in few_choices(info) if info["python_module"] == MODULE else ():
            page = read_page(name)
            explained = [choice for choice in choices if f"{choice}: " in english[name]["inputs"][key]["tooltip"]]
            translated = chinese.get(name, {}).get("inputs", {}).get(key, {}).get("tooltip")  # what is not is a warning of another test
            missing += [
                (name, key, choice, "locales/zh") for choice in explained if translated and choice + CHINESE_COLON not in translated
            ]
            missing += [(name, key, choice, f"web/docs/{name}.md") for choice in choices if f"`{choice}`" not in page]
    assert missing == []


def few_choices(info: dict[str, Any]) -> Iterator[tuple[str, list[str]]]:
    """The combos of a node with choices of our own."""
    for group in ("required", "optional"):
        for key, (kind, options) in info["input"].get(group, {}).items():
            if kind == "COMBO" and not is_file_list(key) and len(options["options"]) <= FEW:
                yield key, options["options"]


@pytest.mark.parametrize("node", sorted(node_texts()))
def test_help_and_picture_are_served(node, server):
    """The front end puts the folder of the English page in front of the path of a picture, in every language."""
    folder = f"{server.url}/extensions/wan_s2v/docs"
    for page in [f"{node}.md", *([f"{node}/zh.md"] if page_path(node, "zh").is_file() else [])]:
        assert f"](images/{node}.png)" in fetch(f"{folder}/{page}").decode()
    assert fetch(f"{folder}/images/{node}.png").startswith(b"\x89PNG")
