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
from harness.fixtures.layer_under_test import make_subject
from harness.fixtures.phase_timer import Clock
from harness.fixtures.rank_context import RankContext
from harness.fixtures.run_calls import answered, run_calls
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
        distances = [_distances(case) for case in ran]
        fits = tuple(
            Fit(numerics=numerics, squares=squares, unequal=unequal)
            for numerics, squares, unequal in zip(trials(), *_by_trial(distances), strict=True)
        )
        nearest = min(fits, key=lambda fit: fit.residual).numerics
        return Measured(
            cases=tuple(case_ids),
            values=tuple(sum(call.output.out.numel() for call in case.calls) for case in ran),
            fits=fits,
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


def _by_trial(
    distances: Sequence[Sequence[tuple[float, int]]],
) -> tuple[list[tuple[float, ...]], list[tuple[int, ...]]]:
    """Return the squares and the unequal values of each trial, one for each case."""
    by_trial = list(zip(*distances, strict=True))
    squares = [tuple(square for square, _ in of_cases) for of_cases in by_trial]
    return squares, [tuple(unequal for _, unequal in of_cases) for of_cases in by_trial]


def _distances(case: Ran) -> list[tuple[float, int]]:
    """Return for each trial the mean square of the difference in steps, and the unequal values."""
    outputs = [call.output.out.float() for call in case.calls]
    emulations = [_emulation(case.subject, call) for call in case.calls]
    dtype, joined = case.subject.case.dtype, torch.cat(outputs)
    step = formats.step_of(joined.nan_to_num(), dtype).square().mean()
    if not joined.isfinite().all() or step == 0:
        return [(math.inf, joined.numel())] * sum(1 for _ in trials())
    distances = []
    for numerics in trials():
        stated = _complete(case.subject, numerics)
        difference = torch.cat([emulate(stated) for emulate in emulations]) - joined
        unequal = int(difference.count_nonzero())
        distances.append((float(difference.square().mean() / step), unequal))
    return distances


def _emulation(subject: Subject, call: Call) -> Emulation:
    routing = call.output.routing
    inputs = Inputs(
        x=call.tokens.x,
        topk_ids=routing.topk_ids,
        topk_weights=routing.topk_weights,
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
