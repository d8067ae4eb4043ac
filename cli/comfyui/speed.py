"""How fast a machine computes the model: by a product that is measured here, or by what the maker states of a card. Needs PyTorch."""

from __future__ import annotations

import torch

from .machine import Machine

try:
    from ...wan_s2v_model.cost.cards import EXACT, Modes, calculated_rates, find_card, measured_rates
    from ...wan_s2v_model.cost.estimate import Rates
    from ...wan_s2v_model.cost.product import measure_product
except ImportError:  # `python -m cli`: there is no package above this one
    from wan_s2v_model.cost.cards import EXACT, Modes, calculated_rates, find_card, measured_rates
    from wan_s2v_model.cost.estimate import Rates
    from wan_s2v_model.cost.product import measure_product


def measured_here(machine: Machine, modes: Modes = EXACT) -> Rates | None:
    """The rates of this machine's GPU, None where there is none that PyTorch computes with."""
    if machine.is_host or not torch.cuda.is_available():
        return None
    try:
        return measured_rates(machine.device, measure_product(torch.device("cuda"), torch.float16), modes)
    except RuntimeError:  # too little memory is free, or this PyTorch has no kernels for the GPU
        return None


def stated(machine: Machine, modes: Modes = EXACT) -> Rates | None:
    """The rates of a card by what its maker states, None where it is not in the table."""
    card = find_card(machine.device)
    return calculated_rates(card, modes) if card else None
