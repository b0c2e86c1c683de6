"""Hold the outputs of a case's calls beside an emulation of each, and measure their distance."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from harness.fixtures.expected_answers import routed_otherwise
from harness.fixtures.routing_truth import resolved_roundings
from harness.record.rounding_fit import Fit
from moe.reference import formats
from moe.reference.emulate import Emulation, Inputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from harness.fixtures.layer_call import Call
    from harness.fixtures.layer_under_test import Subject
    from harness.fixtures.rank_context import RankContext
    from moe.numerics import Numerics
    from moe.router_numerics import RouterNumerics


@dataclass(frozen=True, kw_only=True)
class Ran:
    """Hold a case's subject and its calls on one rank."""

    subject: Subject
    context: RankContext
    calls: Sequence[Call]

    def rounded(self, rounding: RouterNumerics) -> Ran:
        """Return the case with the routing that the layer hides rounded as stated."""
        case, device = self.subject.case, self.context.device
        (resolved,) = resolved_roundings(case, device, rounding)
        subject = replace(self.subject, roundings=(resolved,))
        calls = [routed_otherwise(call, subject, self.context) for call in self.calls]
        return replace(self, subject=subject, calls=calls)


@dataclass(frozen=True, kw_only=True)
class Emulated:
    """Hold the outputs of a case's calls, and an emulation of each.

    outputs: [T, K] float32 each. joined: all of them. step: mean square of a rounding step at
    their values; 0 if one is not finite, or all are zero.
    """

    subject: Subject
    emulations: Sequence[Emulation]
    outputs: Sequence[Tensor]
    joined: Tensor
    step: float

    def distance(self, numerics: Numerics, *, any_order: bool) -> tuple[float, int]:
        """Return the mean square of the difference in steps, and the values that differ.

        any_order: sum each row in the order that is nearest to it.
        """
        if self.step == 0:
            return math.inf, self.joined.numel()
        stated = complete(self.subject, numerics)
        pairs = zip(self.emulations, self.outputs, strict=True)
        if any_order:
            rows = [emulate.nearest(stated, out) for emulate, out in pairs]
        else:
            rows = [emulate(stated) for emulate, _ in pairs]
        difference = torch.cat(rows) - self.joined
        return float(difference.square().mean()) / self.step, int(difference.count_nonzero())


def emulated_of(case: Ran) -> Emulated:
    outputs = [call.output.out.float() for call in case.calls]
    joined = torch.cat(outputs)
    step = formats.step_of(joined.nan_to_num(), case.subject.case.dtype).square().mean()
    return Emulated(
        subject=case.subject,
        emulations=[_emulation(case.subject, call) for call in case.calls],
        outputs=outputs,
        joined=joined,
        step=float(step) if joined.isfinite().all() else 0.0,
    )


def fit_of(numerics: Numerics, cases: Sequence[Emulated], *, any_order: bool = False) -> Fit:
    """Return how far the outputs of all cases are from one combination."""
    distances = [case.distance(numerics, any_order=any_order) for case in cases]
    squares, unequal = zip(*distances, strict=True)
    return Fit(numerics=numerics, squares=squares, unequal=unequal)


def _emulation(subject: Subject, call: Call) -> Emulation:
    routing = call.output.routing
    inputs = Inputs(
        x=call.tokens.x,
        topk_ids=routing.topk_ids,
        topk_weights=routing.topk_weights,
        adapters=call.tokens.adapters,
        **subject.scales,
    )
    return Emulation(subject.reference, inputs)


def complete(subject: Subject, numerics: Numerics) -> Numerics:
    """Return the trial with all other places as the row states them, or as they are assumed."""
    return replace(subject.candidates.alternatives[0], **numerics.places)
