"""The smallest error that a whole case catches, its stages and repetition included.

A backend that is our own Triton kernels but for one expert's weights, or one of its scales, which
are off by a relative error: run as any case is, and judged by all that judges a case.
"""

from __future__ import annotations

import os

os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is first imported

from typing import TYPE_CHECKING

import torch

from harness.execute import run_case
from harness.fixtures.rank_context import RankContext
from harness.matrix.case import MoETestConfig
from harness.record.result import Verdict
from moe.experts import EXPERTS
from moe.experts.triton import TritonExperts

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from moe.types import ExpertWeights

    Fault = Callable[[ExpertWeights, float], ExpertWeights]

EXPERT = 0  # the one that is wrong
STEPS = 7  # of the bisection over the logarithm: to 11 % of the limit
LARGEST, SMALLEST = 4.0, 2.0**-17


def _times(x: Tensor, factor: float, *place: int) -> Tensor:
    """The expert's part of x [e, ...], or one number of it, times the factor."""
    wrong = x.clone()
    wrong[(EXPERT, *place)] *= factor
    return wrong


def all_weights(w: ExpertWeights, error: float) -> ExpertWeights:
    w = second_matrix(w, error)
    if w.w13_scale is None:
        return w.replace(w13=_times(w.w13, 1 + error))
    return w.replace(w13_scale=_times(w.w13_scale, 1 + error))


def second_matrix(w: ExpertWeights, error: float) -> ExpertWeights:
    if w.w2_scale is None:
        return w.replace(w2=_times(w.w2, 1 + error))
    return w.replace(w2_scale=_times(w.w2_scale, 1 + error))


def one_scale(w: ExpertWeights, error: float) -> ExpertWeights:
    """Of the second matrix: the tensor's, the first channel's, or the first block's."""
    assert w.w2_scale is not None, "weights without scales have none that could be wrong"
    return w.replace(w2_scale=_times(w.w2_scale, 1 + error, *[0] * (w.w2_scale.dim() - 1)))


FAULTS: dict[str, Fault] = {
    "all weights": all_weights,
    "w2": second_matrix,
    "one scale of w2": one_scale,
}


class FaultyExperts(TritonExperts):
    """One process, one fault at a time."""

    row = EXPERTS.row("triton")
    fault: Fault | None = None
    error = 0.0

    def prepare_weights(self, weights: ExpertWeights) -> None:
        fault = FaultyExperts.fault
        super().prepare_weights(weights if fault is None else fault(weights, self.error))


def verdict(
    case: MoETestConfig, context: RankContext, fault: Fault | None, error: float
) -> Verdict:
    """Of the case with a fault, on one rank; None: without any."""
    FaultyExperts.fault, FaultyExperts.error = fault, error
    return run_case(case, context).verdict


BACKEND = f"{__name__}:FaultyExperts"
CASE = MoETestConfig(m=16, n=256, k=512, num_experts=8, top_k=2, experts=BACKEND)


def limit(case: MoETestConfig, name: str) -> float:
    """The smallest error of the fault `name` that the case catches; inf: none is.

    Raises AssertionError where the case does not pass without a fault.
    """
    context = RankContext(rank=0, world_size=1, device=torch.device("cpu"), transport="gloo")
    if verdict(case, context, None, 0.0) is not Verdict.PASSED:
        raise AssertionError(f"a right layer was rejected: {case.id}")
    high, low = LARGEST, SMALLEST
    if verdict(case, context, FAULTS[name], high) is not Verdict.FAILED:
        return float("inf")
    for _ in range(STEPS):
        middle = (high * low) ** 0.5
        if verdict(case, context, FAULTS[name], middle) is Verdict.FAILED:
            high = middle
        else:
            low = middle
    return high
