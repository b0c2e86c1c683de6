"""Estimate how much processor time a case takes, to choose among cases that show as much. No torch.

Ranks and interpreted kernels make most of the difference. On a machine whose kernels are compiled
only the number of ranks counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.matrix.call_modes import CALL_MODES, SMALL_TILES
from harness.matrix.case import LAYOUT_AXES
from harness.plan import cost
from harness.plan.memo import axes_of
from harness.plan.row_needs import is_interpreted
from moe.layers import OWN
from moe.oracle import AUTO

if TYPE_CHECKING:
    from harness.matrix.case import MoETestConfig
    from harness.plan.machine import Machine

# Seconds of a core, checks included, of cases without interpreted kernels: the mean of 246 recorded
# ones with one rank, and of 592 with several, which took both of two cores.
_ALONE_SECONDS = 0.25
_RANK_SECONDS = 0.4
_READ = frozenset({"experts", "call", *LAYOUT_AXES})  # axes that decide the work of any case
_INTERPRETED = frozenset(axes_of((*cost.SIZES, "scheme")))  # and also where kernels are interpreted


def work(case: MoETestConfig, machine: Machine) -> float:
    """Return about the seconds that one core would take for a case."""
    return _of_layer(case, machine) + CALL_MODES[case.call].seconds


def read(experts: str, machine: Machine) -> frozenset[str]:
    """Return the axes that decide the work of a case with this backend."""
    return _READ | _INTERPRETED if _is_interpreted(experts, machine) else _READ


def _is_interpreted(experts: str, machine: Machine) -> bool:
    return experts not in (AUTO, OWN) and is_interpreted(machine, experts)


def _of_layer(case: MoETestConfig, machine: Machine) -> float:
    if _is_interpreted(case.experts, machine):
        seconds = cost.small_tile_seconds if case.call == SMALL_TILES else cost.interpreted_seconds
        return seconds(case.layer_spec, 1)
    return _ALONE_SECONDS if case.world_size == 1 else _RANK_SECONDS * case.world_size
