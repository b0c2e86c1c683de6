"""Compare a member's outputs with an emulation of every combination of roundings, bit by bit.

It runs in the rank: the layer's calls and their emulations need torch. What it returns is plain
data, from which a controller decides where the member rounds.
"""

from __future__ import annotations

import itertools
import math
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from harness.checks.emulated_calls import Emulated, Ran, complete, emulated_of, fit_of
from harness.checks.hidden_rounding_fits import hidden_rounding
from harness.checks.output import row_tolerance
from harness.fixtures.expected_answers import answered
from harness.fixtures.layer_under_test import make_subject
from harness.fixtures.phase_timer import Clock
from harness.fixtures.rank_context import RankContext
from harness.fixtures.run_calls import run_calls
from harness.matrix.case import MoETestConfig
from harness.record.rounding_fit import PLACES, Fit, Measured
from moe.numerics import Numerics

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from harness.fixtures.layer_call import Call

# Combinations that are tried with each row's own order of additions, and the rounding steps that
# the best of all leaves at most: more is no matter of order.
MOST_FREE, MOST_LEFT = 8, 1.0
_ROUNDED = ("f32", "model")
_VALUES = {
    "weight_on": ("output", "intermediate", "input"),
    "combine_order": ("any", "slots"),
}


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
        measured = _measured(case_ids, ran)
        hidden = hidden_rounding(ran, measured.fits)
        if hidden is None:
            return measured
        if not hidden.is_assumed:  # then the places are those under the roundings that fit
            measured = _measured(case_ids, [case.rounded(hidden.rounding) for case in ran])
        return replace(measured, hidden=hidden)


def _measured(case_ids: Sequence[str], ran: Sequence[Ran]) -> Measured:
    """Return the fits of all trials to what ran."""
    with _one_thread():
        emulated = [emulated_of(case) for case in ran]
        fits = [fit_of(numerics, emulated) for numerics in trials()]
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


def _in_nearest_orders(fits: Sequence[Fit], cases: Sequence[Emulated]) -> list[Fit]:
    """Return the fits; the nearest rounded sums of any order get for each row its nearest one."""
    free = [fit for fit in fits if fit.numerics.combine == "model"]
    free = [fit for fit in free if fit.numerics.combine_order == "any"]
    nearest = sorted(free, key=lambda fit: fit.residual)[:MOST_FREE]
    changed = {fit.numerics: fit_of(fit.numerics, cases, any_order=True) for fit in nearest}
    return [changed.get(fit.numerics, fit) for fit in fits]


def _used(case: Ran, numerics: Numerics) -> float:
    """Return the part of its tolerance that the worst row of a case uses under these numerics."""
    reference = case.subject.reference.with_numerics(complete(case.subject, numerics))
    subject = replace(case.subject, reference=reference)
    return max(
        _used_by_rows(call.output.out, answered(call, subject, case.context)) for call in case.calls
    )


def _used_by_rows(out: Tensor, call: Call) -> float:
    distance = (out.float() - call.answer.out).norm(dim=1)
    used = distance / row_tolerance(call.answer).clamp(min=1e-38)
    return float(used.nan_to_num(nan=math.inf, posinf=math.inf).amax())
