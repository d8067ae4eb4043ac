"""What a forward pass takes on a card by the loader's choices, against what was measured and against each other."""

import pytest
from wan_s2v_pack.wan_s2v_model.cost.cards import CARDS
from wan_s2v_pack.wan_s2v_model.cost.choices import BOTH, EXACT, FP8, SAGE, forward_seconds

BY_NAME = {card.name: forward_seconds(card) for card in CARDS}


@pytest.mark.parametrize(("name", "measured"), [("H100", 2.74), ("H200", 2.769)])
def test_exact_is_near_what_was_measured(name, measured):
    """docs/performance.md, a later clip of 832x480."""
    assert BY_NAME[name][EXACT] == pytest.approx(measured, rel=0.06)


def test_a_choice_is_listed_where_it_has_an_effect():
    assert set(BY_NAME["RTX 3090"]) == {EXACT, SAGE}
    assert set(BY_NAME["RTX 4090"]) == set(BY_NAME["RTX 5090"]) == {EXACT, FP8, SAGE, BOTH}
    assert set(BY_NAME["A100"]) == {EXACT}
    assert set(BY_NAME["H100"]) == {EXACT, FP8}


@pytest.mark.parametrize("name", ["RTX 4090", "RTX 5090"])
def test_gains_of_linear_layers_and_attention_add_up(name):
    seconds = BY_NAME[name]
    saved = {choice: seconds[EXACT] - seconds[choice] for choice in (FP8, SAGE, BOTH)}
    assert saved[BOTH] == pytest.approx(saved[FP8] + saved[SAGE])
    assert min(saved[FP8], saved[SAGE]) > 0.15 * seconds[EXACT]


def test_scales_behind_the_product_cost_something():
    """On the 50 series: its fp8 products gain a smaller share than those of the 40 series."""
    gains = {name: BY_NAME[name][FP8] / BY_NAME[name][EXACT] for name in ("RTX 4090", "RTX 5090")}
    assert gains["RTX 4090"] < gains["RTX 5090"] < gains["RTX 4090"] + 0.05
