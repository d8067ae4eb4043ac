"""The README answers first what everybody asks first, in few words, and its figures are those of the code."""

from __future__ import annotations

import re
from pathlib import Path

from wan_s2v_pack.cli.models.files import BY_DEFAULT, FILES, PARTS, select
from wan_s2v_pack.wan_s2v_model.cost.cards import CARDS, calculated_rates
from wan_s2v_pack.wan_s2v_model.cost.estimate import estimate
from wan_s2v_pack.wan_s2v_model.cost.outlook import WAYS, half_minute_on, loaded_model, timeline_of

from .test_docs import code_in, section, table

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
MOST_WORDS = 1200
FIRST_SCREEN_LINES = 60
QUESTIONS = "Does it run on my card, and how long does it take?"
TITLES = [
    "Wan S2V for ComfyUI",
    QUESTIONS,
    "Install",
    "Quick start",
    "Troubleshooting",
    "Performance",
    "Compared with others",
    "Limits",
    "Without a GPU, and for contributors",
]
UNSEEN = re.compile(r"<!--.*?-->|^\[\w+\]: [^\n]*$|(?<=\])(?:\([^)]*\)|\[\w+\])", re.DOTALL | re.MULTILINE)  # comments and addresses
FIGURE = re.compile(r"\d+\.\d+")


def shown(seconds: float) -> str:
    """A time as the table has it."""
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"


def test_few_words():
    words = [word for word in UNSEEN.sub("", TEXT).split() if re.search(r"\w", word)]
    assert len(words) <= MOST_WORDS


def test_sections_stand_in_the_order_of_the_questions():
    assert re.findall(r"^##? (.+)$", TEXT, re.MULTILINE) == TITLES


def test_first_screen_says_needs_times_and_what_to_download():
    first = "\n".join(TEXT.splitlines()[:FIRST_SCREEN_LINES])
    size = sum(file.gigabytes for file in select("comfy", None, BY_DEFAULT))
    for need in ("8 GB", "RAM", f"{size:.0f} GB of disk", "ComfyUI 0.25", "| RTX 3060 12 GB |", "cli download"):
        assert need in first


def test_times_are_those_of_the_estimate():
    """They were seconds of an H100 with less memory, which everybody took for theirs."""
    rows = table(section(README, QUESTIONS))
    cards = {card.name: card for card in CARDS}
    expected = []
    for name, *_ in rows:
        card = cards[re.sub(r" \d+ GB$", "", name)]
        assert name == card.name or name == f"{card.name} {card.memory_bytes / 1e9:.0f} GB"
        times = half_minute_on(card)
        expected.append([name, *(shown(times[way].seconds) for way in WAYS)])
    assert rows == expected
    assert [name for name, *_ in rows] == ["RTX 3060 12 GB", "RTX 4060 Ti 16 GB", "RTX 3090", "RTX 4090", "RTX 5090", "H100"]
    assert "*calculated*" in section(README, QUESTIONS)


def test_two_minutes_of_the_recipe_are_those_of_the_estimate():
    recipe = section(ROOT / "docs" / "direction.md", "Two minutes on a card of 12 GB")
    card, timeline = next(card for card in CARDS if card.name == "RTX 3060"), timeline_of(120)
    draft, reference = (estimate(way.job(timeline), loaded_model(), calculated_rates(card)).seconds / 3600 for way in WAYS)
    assert f"*calculated* for an RTX 3060: {draft:.1f} hours as a draft, {reference:.0f} hours at the reference's settings" in recipe
    assert f"{timeline.num_clips} clips: after a crash" in recipe


def test_files_are_those_that_download_fetches():
    files = select("comfy", None, BY_DEFAULT)
    rows = [(*code_in(row[0]), *code_in(row[1]), row[2]) for row in table(section(README, "Install"))]
    assert rows == [(file.name, file.folder, f"{file.gigabytes:g} GB") for file in files]
    pages = dict(re.findall(r"^\[(\w+)\]: (\S+)$", TEXT, re.MULTILINE))
    for row, file in zip(table(section(README, "Install")), files, strict=True):
        assert file.repository in pages[re.search(r"\]\[(\w+)\]", row[0])[1]]
    exact = sum(file.gigabytes for file in FILES["comfy"] if PARTS[file.part].needed and "bf16" in file.precisions)
    assert f"(bf16, {exact:.0f} GB)" in TEXT


def test_performance_shows_measured_figures_only():
    figures = set(FIGURE.findall(section(README, "Performance")))
    measured = FIGURE.findall((ROOT / "docs" / "performance.md").read_text(encoding="utf-8"))
    assert figures
    assert figures - set(measured) == set()


def test_every_template_is_named_here_or_in_the_guide():
    endings = re.compile(r"( \(Wan S2V\))?(\.app)?\.json$")
    titles = [endings.sub("", path.name) for path in (ROOT / "workflows").glob("*.json")]
    assert titles
    guide = (ROOT / "docs" / "direction.md").read_text(encoding="utf-8")
    assert [title for title in titles if f"| **{title}" not in section(README, "Quick start") and f"**{title}**" not in guide] == []


def test_two_commands_for_contributors():
    assert re.findall(r"^scripts/\w+", section(README, TITLES[-1]), re.MULTILINE) == ["scripts/demo", "scripts/test"]
