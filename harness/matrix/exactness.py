"""Which cases of exact mode (exact.py) are to be compared bit for bit. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.activations import ACTIVATIONS
from moe.routers import ROUTERS
from moe.spec import FORMATS

if TYPE_CHECKING:
    from harness.matrix.case import MoETestConfig

SMALLEST_GATE = 32.0  # of the gates that are not 0
PERIOD = 8  # of the intermediate columns that hold the largest values; a shard has some


def is_bitwise(case: MoETestConfig) -> bool:
    """Whether this case's outputs are to be compared bit for bit."""
    quantized = FORMATS[case.problem.scheme.activations].grid != "model"
    eights = case.n % (PERIOD * (1 if case.use_ep else case.world_size)) == 0
    identity = ACTIVATIONS.row(case.activation).identity_from
    sums = case.top_k * (2 if case.shared_experts else 1)
    return (
        case.exact
        and (case.renormalize or ROUTERS.row(case.router).sums_to_one)
        and identity is not None
        and identity <= SMALLEST_GATE
        and case.top_k in (1, 2, 4, 8)
        and sums <= 8
        and case.shared_experts <= 1
        and min(case.n, case.k) >= 2 * PERIOD
        and (eights or not quantized)
    )
