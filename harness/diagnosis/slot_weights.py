"""Find by which other router weights the outputs of a token's experts were multiplied."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.diagnosis import stage_terms
from harness.diagnosis.terms import fitted_where
from harness.record.diagnosis import NamedCause
from moe.reference.formats import on_grid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.terms import Terms

NAME = "slot_weights"
MOST_NAMED = 2


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield the other weights that give the sums over slots; of the output without a stage."""
    wrong = evidence.stage
    if wrong is not None:
        if wrong.stage == "combine" and evidence.subject is not None:
            handed = stage_terms.handed_of(evidence)
            weights, ids = handed.stages["weights"].value.float(), handed.ids
            for terms in stage_terms.terms_of(evidence):
                numbers = terms.numbers
                if numbers is not None:
                    yield from slot_weights(terms, weights, ids >= 0, numbers)
        return
    routing, scene = evidence.call.output.routing, evidence.sampled
    if bool(evidence.mismatch.rows.any()):
        is_used = routing.topk_ids >= 0
        for of_slots in evidence.shares[:1]:
            yield from slot_weights(of_slots, routing.topk_weights.float(), is_used, scene.rows)


def slot_weights(
    terms: Terms, weights: Tensor, is_used: Tensor, rows: Tensor
) -> Iterator[NamedCause]:
    """Yield the other weights that explain all rows.

    weights, is_used: [T, k] of all rows of the call. rows: [R], which ones the terms are of; the
    first k terms of each are its slots.
    """
    others = torch.stack([f(weights, is_used)[rows] for f in OTHERS.values()])
    own, named = weights[rows], 0
    for slot in (None, *range(own.shape[1] if own.shape[1] > 1 else 0)):
        which = "the experts' outputs" if slot is None else f"the outputs of slot {slot}"
        changed = others
        if slot is not None:
            is_its = torch.arange(own.shape[1], device=own.device) == slot
            changed = torch.where(is_its, others, own)
        for text, residual, where in _fitting(terms, own, changed, is_used[rows]):
            named += 1
            place = f"in stage {terms.stage} " if terms.stage else ""
            cause = f"{place}{which} are weighted {text}"
            yield NamedCause(name=NAME, cause=cause, residual=residual, where=where)
            if named >= MOST_NAMED:
                return
        if named:
            return


def _fitting(
    terms: Terms, own: Tensor, others: Tensor, is_used: Tensor
) -> Iterator[tuple[str, float, str]]:
    """Yield the texts of other weights [H, R, k] that explain the sums, what they leave, and where.

    own, is_used: [R, k].
    """
    counts = torch.ones_like(terms.values[:, :, 0]).repeat(len(others), 1, 1)
    counts[:, :, : own.shape[1]] = torch.where(own != 0, others / own, 1.0)
    is_other = ((others != own) & is_used).any(dim=(1, 2))
    for number in (is_other & may_fit(terms, counts)).nonzero().flatten().tolist():
        fit = fitted_where(terms, terms.changed_by(counts[number]))
        if fit is not None:
            yield list(OTHERS)[number], *fit


def may_fit(terms: Terms, counts: Tensor) -> Tensor:
    """Return [H] bool: whether each wrong row is near enough to a prediction. counts: [H, R, P].

    All predictions are compared at once: on a device the number of operations is what counts.
    """
    change = torch.einsum("hrp,rpc->hrc", counts - 1, terms.values)
    predicted = terms.expected + change
    size = predicted.nan_to_num().norm(dim=2) / terms.expected.norm(dim=1).clamp(min=1e-38)
    allowed = terms.tolerance * size.clamp(min=1, max=1e3)
    remaining = (predicted - terms.actual).norm(dim=2)
    is_near: Tensor = ((remaining <= 1.01 * allowed) | ~terms.is_wrong).all(dim=1)
    return is_near


def _over_used(weights: Tensor, is_used: Tensor) -> Tensor:
    """Return the weights, normalised over the slots that this rank computes."""
    total = torch.where(is_used, weights, 0.0).sum(dim=1, keepdim=True)
    return weights / total.clamp(min=1e-38)


def _mean(weights: Tensor, is_used: Tensor) -> Tensor:
    """Return the same weight for each slot that this rank computes."""
    return (1 / is_used.sum(dim=1, keepdim=True).clamp(min=1)).expand_as(weights)


def _one_of_k(weights: Tensor, _: Tensor) -> Tensor:
    return torch.full_like(weights, 1 / weights.shape[1])


OTHERS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "by router weights that are rounded to bf16": lambda w, _: on_grid(w, "bf16"),
    "by router weights that are rounded to fp16": lambda w, _: on_grid(w, "fp16"),
    "by 1 each, not by the router weights": lambda w, _: torch.ones_like(w),
    "by one number each, which is 1 / k, not by the router weights": _one_of_k,
    "by 1 / the number of experts that this rank computes": _mean,
    "by the squares of the router weights": lambda w, _: w.square(),
    "by the square roots of the router weights": lambda w, _: w.clamp(min=0).sqrt(),
    "by router weights that are normalised over this rank's experts": _over_used,
    "by the router weight of the slot before it": lambda w, _: w.roll(1, 1),
    "by the router weight of the slot after it": lambda w, _: w.roll(-1, 1),
    "by the token's router weights in reverse order": lambda w, _: w.flip(1),
    "by the router weight of the first slot": lambda w, _: w[:, :1].expand_as(w),
    "by the router weight of the last slot": lambda w, _: w[:, -1:].expand_as(w),
    "by the router weights of the token before it": lambda w, _: w.roll(1, 0),
    "by the router weights of the token after it": lambda w, _: w.roll(-1, 0),
    "by the router weights of the first token": lambda w, _: w[:1].expand_as(w),
}
