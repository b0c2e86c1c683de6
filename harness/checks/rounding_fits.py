"""Compare a member's outputs with an emulation of every combination of roundings, bit by bit.

It runs in the rank: the layer's calls and their emulations need torch. What it returns is plain
data, from which a controller decides where the member rounds.
"""

from __future__ import annotations

import itertools
import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from harness.checks.output import row_tolerance
from harness.fixtures.expected_answers import answered
from harness.fixtures.layer_under_test import make_subject
from harness.fixtures.phase_timer import Clock
from harness.fixtures.rank_context import RankContext
from harness.fixtures.run_calls import run_calls
from harness.matrix.case import MoETestConfig
from harness.record.rounding_fit import PLACES, Fit, Measured
from moe.numerics import Numerics
from moe.reference import formats
from moe.reference.emulate import Emulation, Inputs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from harness.fixtures.layer_call import Call
    from harness.fixtures.layer_under_test import Subject

# Combinations that are tried with each row's own order of additions, and the rounding steps that
# the best of all leaves at most: more is no matter of order.
MOST_FREE, MOST_LEFT = 8, 1.0
_ROUNDED = ("f32", "model")
_VALUES = {
    "weight_on": ("output", "intermediate", "input"),
    "combine_order": ("any", "slots"),
}


@dataclass(frozen=True, kw_only=True)
class Ran:
    """Hold a case's subject and its calls on one rank."""

    subject: Subject
    context: RankContext
    calls: Sequence[Call]


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
        stated = _complete(self.subject, numerics)
        pairs = zip(self.emulations, self.outputs, strict=True)
        if any_order:
            rows = [emulate.nearest(stated, out) for emulate, out in pairs]
        else:
            rows = [emulate(stated) for emulate, _ in pairs]
        difference = torch.cat(rows) - self.joined
        return float(difference.square().mean()) / self.step, int(difference.count_nonzero())


def trials() -> Iterator[Numerics]:
    """Yield every combination of values of PLACES, float32 first; each states nothing else."""
    choices = [_VALUES.get(place, _ROUNDED) for place in PLACES]
    for values in itertools.product(*choices):
        stated: dict[str, Any] = dict(zip(PLACES, values, strict=True))
        numerics = Numerics(**stated)
        if numerics.combine == "model" or numerics.combine_order == "any":
            yield numerics


def measure(case_ids: Sequence[str], device: str) -> Measured:
    """Run the cases, each of one rank, and return how well each combination reproduces them.

    device: a torch device type; its current device is used. Exceptions of the member pass through.
    """
    place = torch.device("cpu") if device == "cpu" else torch.device(device, 0)
    context = RankContext(rank=0, world_size=1, device=place, transport="gloo")
    with torch.inference_mode():
        ran = [_run(case_id, context) for case_id in case_ids]
        return _measured(case_ids, ran)


def _measured(case_ids: Sequence[str], ran: Sequence[Ran]) -> Measured:
    """Return the fits of all trials to what ran."""
    with _one_thread():
        emulated = [_emulated(case) for case in ran]
        fits = [_fit(numerics, emulated) for numerics in trials()]
        least = min(fit.residual for fit in fits)
        if least <= MOST_LEFT and not any(fit.reproduces for fit in fits):
            fits = _in_nearest_orders(fits, emulated)
        nearest = min(fits, key=lambda fit: fit.residual).numerics
        return Measured(
            cases=tuple(case_ids),
            values=tuple(case.joined.numel() for case in emulated),
            fits=tuple(fits),
            used=tuple(_used(case, nearest) for case in ran),
        )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run on one thread: products this small only lose time on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _run(case_id: str, context: RankContext) -> Ran:
    subject = make_subject(MoETestConfig.from_id(case_id), context)
    return Ran(
        subject=subject, context=context, calls=run_calls(subject, context, Clock(context=context))
    )


def _emulated(case: Ran) -> Emulated:
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


def _fit(numerics: Numerics, cases: Sequence[Emulated], *, any_order: bool = False) -> Fit:
    """Return how far the outputs of all cases are from one combination."""
    distances = [case.distance(numerics, any_order=any_order) for case in cases]
    squares, unequal = zip(*distances, strict=True)
    return Fit(numerics=numerics, squares=squares, unequal=unequal)


def _in_nearest_orders(fits: Sequence[Fit], cases: Sequence[Emulated]) -> list[Fit]:
    """Return the fits; the nearest rounded sums of any order get for each row its nearest one."""
    free = [fit for fit in fits if fit.numerics.combine == "model"]
    free = [fit for fit in free if fit.numerics.combine_order == "any"]
    nearest = sorted(free, key=lambda fit: fit.residual)[:MOST_FREE]
    changed = {fit.numerics: _fit(fit.numerics, cases, any_order=True) for fit in nearest}
    return [changed.get(fit.numerics, fit) for fit in fits]


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


def _complete(subject: Subject, numerics: Numerics) -> Numerics:
    """Return the trial with all other places as the row states them, or as they are assumed."""
    return replace(subject.candidates.alternatives[0], **numerics.places)


def _used(case: Ran, numerics: Numerics) -> float:
    """Return the part of its tolerance that the worst row of a case uses under these numerics."""
    reference = case.subject.reference.with_numerics(_complete(case.subject, numerics))
    subject = replace(case.subject, reference=reference)
    return max(
        _used_by_rows(call.output.out, answered(call, subject, case.context)) for call in case.calls
    )


def _used_by_rows(out: Tensor, call: Call) -> float:
    distance = (out.float() - call.answer.out).norm(dim=1)
    used = distance / row_tolerance(call.answer).clamp(min=1e-38)
    return float(used.nan_to_num(nan=math.inf, posinf=math.inf).amax())
