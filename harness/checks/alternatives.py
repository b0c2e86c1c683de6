"""Compare the outputs of a case with the references of all numerics that its row may have.

The outputs of most wrong layers are far from every alternative, so a few of the worst rows are
compared first; only alternatives that explain these are judged in full.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from harness.checks.output import row_tolerance, tolerance_factors
from harness.fixtures.expected_answers import answered, routed_otherwise
from harness.matrix.exactness import is_bitwise
from moe.formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from harness.checks.check import Observation
    from harness.fixtures.layer_call import Call
    from moe.reference.joined_pairs import Products
    from moe.reference.layer import BaselineSiluAndMul
    from moe.reference.result import Answer
    from moe.router_numerics import RouterNumerics

MOST_CALLS, MOST_ROWS = 4, 8  # with the largest errors, that are compared first
# Times the tolerance of each ball that covers all alternatives: beyond, none of them can fit.
BEYOND = 2.0


def under(observation: Observation, number: int) -> Observation:
    """Return the observation with the reference and the answers of one alternative."""
    subject = observation.subject
    numerics = subject.candidates.alternatives[number]
    other = dataclasses.replace(subject, reference=subject.reference.with_numerics(numerics))
    calls = tuple(answered(call, other, observation.context) for call in observation.calls)
    return dataclasses.replace(observation, subject=other, calls=calls)


def under_rounding(observation: Observation, rounding: RouterNumerics) -> Observation:
    """Return the observation with the routing that the layer hides rounded otherwise."""
    subject = dataclasses.replace(
        observation.subject,
        roundings=(rounding, *(r for r in observation.subject.roundings if r != rounding)),
    )
    calls = tuple(routed_otherwise(c, subject, observation.context) for c in observation.calls)
    return dataclasses.replace(observation, subject=subject, calls=calls)


def fits_of(observation: Observation, *, of_first: bool = False) -> list[float]:
    """Return how much of its row tolerance each alternative uses in the worst rows; inf: too much.

    of_first: whether the first alternative is still to be tried, too. Not collective. With one
    dynamic scale for all tokens, few rows do not determine the values, so every alternative may fit
    (0).
    """
    subject = observation.subject
    tried = subject.candidates
    excluded = [math.inf if of_first else 0.0] + [math.inf] * (len(tried.alternatives) - 1)
    if is_bitwise(subject.case):
        return excluded  # every value is exact, so that rounding changes nothing
    fmt = FORMATS[subject.case.layer_spec.scheme.activations]
    if fmt.spans_rows:
        return [0.0] * len(tried.alternatives)
    worst = _worst_rows(observation.calls)
    balls = (subject.reference.with_numerics(numerics) for numerics in tried.balls)
    if all(_used(reference, worst) > BEYOND for reference in balls):
        return excluded
    first_products: list[Products] = [{} for _ in worst]
    references = (subject.reference.with_numerics(numerics) for numerics in tried.alternatives)
    return [_used(reference, worst, first_products) for reference in references]


def _worst_rows(calls: Sequence[Call]) -> list[tuple[Call, Tensor]]:
    """Return the calls with the largest errors, and the numbers [r] of their worst rows."""
    pairs = [(call, _used_by_row(call.output.out, call.answer)) for call in calls]
    pairs = [(call, used) for call, used in pairs if len(used)]
    pairs.sort(key=lambda pair: -float(pair[1].amax()))
    return [
        (call, used.topk(min(MOST_ROWS, len(used))).indices) for call, used in pairs[:MOST_CALLS]
    ]


def _used(
    reference: BaselineSiluAndMul,
    worst: Sequence[tuple[Call, Tensor]],
    first_products: Sequence[Products] | None = None,
) -> float:
    """Return the largest part of a row's tolerance that the outputs use under a reference."""
    used = [0.0]
    for i, (call, rows) in enumerate(worst):
        products = None if first_products is None else first_products[i]
        answer = answer_of_rows(reference, call, rows, products)
        factor, _ = tolerance_factors(call.answer.variance, call.answer.out.shape[1])
        used.append(float(_used_by_row(call.output.out[rows], answer, factor).amax()))
    return max(used)


def answer_of_rows(
    reference: BaselineSiluAndMul,
    call: Call,
    rows: Tensor,
    products: Products | None = None,
) -> Answer:
    """Return the answer of a reference for some rows [r] of a call, with the call's scales."""
    routing = call.output.routing
    ids, weights = routing.topk_ids[rows], routing.topk_weights[rows]
    return reference(
        *(call.tokens.x[rows], ids, weights),
        like=call.answer,
        products=products,
        adapters=call.tokens.adapters_of(rows),
    )


def _used_by_row(actual: Tensor, answer: Answer, factor: float | None = None) -> Tensor:
    """Return [r], the part of its tolerance that each row uses; inf for NaN and Inf."""
    distance = (actual.to(answer.out.dtype) - answer.out).norm(dim=1)
    used = distance / row_tolerance(answer, factor).clamp(min=1e-38)
    finite: Tensor = used.nan_to_num(nan=math.inf, posinf=math.inf)
    return finite
