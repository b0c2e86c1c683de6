"""Find by which other router weights the tokens were multiplied that zero experts return.

What zero experts add to a row is the token times one number, the sum of their weights. Which slots
count in it cannot be solved for: their shares have one direction. But other numbers can be tried.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.record.diagnosis import NamedCause
from moe.reference.formats import on_grid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors

NAME = "zero_expert_weights"
MOST_NAMED = 2


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield the other weights that give all rows of the layer's output."""
    wrong, errors = evidence.stage, evidence.errors
    if wrong is None or errors is None or wrong.expected.over != "zero experts":
        return
    assert wrong.expected.terms is not None, "a sum has terms"
    rows = errors.numbers
    at = torch.searchsorted(wrong.labels["rows"], rows)
    routing, first = evidence.call.output.routing, evidence.scene.case.num_experts
    yield from zero_expert_weights(
        errors,
        wrong.expected.terms[at, 0],
        evidence.call.tokens.x[rows].float(),
        (routing.topk_weights[rows].float(), routing.topk_ids[rows] >= first),
    )


def zero_expert_weights(
    errors: StageErrors, others: Tensor, x: Tensor, routing: tuple[Tensor, Tensor]
) -> Iterator[NamedCause]:
    """Yield at most MOST_NAMED statements.

    others: [R, C], the sum without zero experts. x: [R, C], the tokens. routing: the weights [R, k]
    and which of the slots have zero experts, bool.
    """
    weights, is_zero = routing
    right, named = torch.where(is_zero, weights, 0.0).sum(dim=1), 0
    for text, numbers in OTHERS.items():
        number = numbers(weights, is_zero)
        if torch.equal(number, right) or named == MOST_NAMED:
            continue
        fit = errors.fitting(others + number[:, None] * x)
        if fit is not None:
            named += 1
            cause = f"{errors.place} the tokens that zero experts return are multiplied by {text}"
            yield NamedCause(name=NAME, cause=cause, residual=fit[0], where=fit[1])


def _of_zero(weights: Tensor, is_zero: Tensor) -> Tensor:
    return torch.where(is_zero, weights, 0.0)


def _at_end(weights: Tensor, is_zero: Tensor, *, last: bool) -> Tensor:
    """Return [R], the weight of each row's first zero expert, or of its last; 0 without one."""
    order = torch.arange(weights.shape[1], device=weights.device)
    order = (order + 1 if last else -order + weights.shape[1]).expand_as(weights)
    at = torch.where(is_zero, order, 0).argmax(dim=1, keepdim=True)
    return _of_zero(weights, is_zero).gather(1, at)[:, 0]


def _smallest(weights: Tensor, is_zero: Tensor) -> Tensor:
    least = torch.where(is_zero, weights, torch.inf).amin(dim=1)
    return torch.where(least.isfinite(), least, 0.0)


def _mean(weights: Tensor, is_zero: Tensor) -> Tensor:
    return _of_zero(weights, is_zero).sum(dim=1) / is_zero.sum(dim=1).clamp(min=1)


def _normalised(weights: Tensor, is_zero: Tensor) -> Tensor:
    return _of_zero(weights, is_zero).sum(dim=1) / weights.sum(dim=1).clamp(min=1e-38)


OTHERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "the largest of their weights, not by the sum": lambda w, z: _of_zero(w, z).amax(dim=1),
    "the smallest of their weights, not by the sum": _smallest,
    "the weight of the first zero expert of each token, not by the sum": (
        lambda w, z: _at_end(w, z, last=False)
    ),
    "the weight of the last zero expert of each token, not by the sum": (
        lambda w, z: _at_end(w, z, last=True)
    ),
    "the mean of their weights, not by the sum": _mean,
    "their number, not by their weights": lambda _, z: z.float().sum(dim=1),
    "1, not by their weights": lambda _, z: z.any(dim=1).float(),
    "the sum of their squared weights": lambda w, z: _of_zero(w, z).square().sum(dim=1),
    "the square of the sum of their weights": lambda w, z: _of_zero(w, z).sum(dim=1).square(),
    "the weights of all slots, not of those with zero experts": lambda w, _: w.sum(dim=1),
    "the weights of the slots without zero experts": lambda w, z: _of_zero(w, ~z).sum(dim=1),
    "their part of the sum of all weights": _normalised,
    "0: they are not added": lambda w, _: torch.zeros_like(w[:, 0]),
    "twice the sum of their weights": lambda w, z: 2 * _of_zero(w, z).sum(dim=1),
    "the sum of their weights, rounded to bf16": (
        lambda w, z: on_grid(_of_zero(w, z).sum(dim=1), "bf16")
    ),
}
