"""Find of which values a matrix of weights has its global scale: of other experts, or of a part.

Scales of blocks are rounded after they were divided by the global scale, so that another one rounds
them at other places. The weights are made again with those that other matrices have.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.checks.stages_products import sharded
from harness.diagnosis.fit import MAX_RESIDUAL
from harness.diagnosis.stage_terms import of_product
from harness.diagnosis.which_weights import (
    MOST_ELEMENTS,
    RIGHT_ROWS,
    WRONG_ROWS,
    Multiplied,
    multiplied,
)
from harness.record.diagnosis import NamedCause
from moe.reference import formats
from moe.reference.block_scales import global_scale

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from harness.checks.stage_record import Handed
    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors
    from moe.formats.format import Format

NAME = "which_totals"


@dataclass(frozen=True, kw_only=True)
class Experts:
    """The matrices of a product before they are quantized. fmt: with a global scale.

    matrices: [O, I] of each expert of the layer, by its id. other: the other matrix of each.
    own: the experts that are multiplied. local: those of the rank, in the order of local ids.
    part: gives this rank's part of a matrix.
    """

    fmt: Format
    matrices: dict[int, Tensor]
    other: dict[int, Tensor]
    own: Sequence[int]
    local: Sequence[int]
    part: Callable[[Tensor], Tensor]

    def others(self) -> Iterator[tuple[str, dict[int, Tensor]]]:
        """Yield what a global scale may be of, in words, and the largest value, [], by expert."""
        largest = {e: w.abs().amax() for e, w in self.matrices.items()}
        order = [e for e in self.local if e in largest]
        of_rank = torch.stack([largest[e] for e in order])
        yield "all experts of the rank", dict.fromkeys(self.own, of_rank.amax())
        yield "all experts of the layer", dict.fromkeys(self.own, max(largest.values()))
        yield f"expert {order[0]}, the rank's first", dict.fromkeys(self.own, of_rank[0])
        for step, side in ((-1, "before"), (1, "after")):
            moved = {e: of_rank[(order.index(e) + step) % len(order)] for e in self.own}
            yield f"the expert {side} each", moved
        yield "the other matrix", {e: self.other[e].abs().amax() for e in self.own}
        both = {e: torch.maximum(largest[e], self.other[e].abs().amax()) for e in self.own}
        yield "both matrices of an expert", both
        parts = {e: self.part(self.matrices[e]).abs().amax() for e in self.own}
        yield "this rank's part of each matrix", parts


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield of which values the global scales of a wrong product's weights are, if of others."""
    product = of_product(evidence, WRONG_ROWS, RIGHT_ROWS)
    if product is None:
        return
    errors, handed = product
    given, fmt = multiplied(handed, errors), handed.subject.reference.weight_format
    if fmt.global_scale and given:
        experts = _experts(handed, errors, given)
        if sum(w.numel() for w in experts.matrices.values()) <= MOST_ELEMENTS:
            yield from which_totals(errors, given, experts)


def _experts(handed: Handed, errors: StageErrors, given: Sequence[Multiplied]) -> Experts:
    """Return the matrices of all experts of the layer, and which of them are multiplied."""
    reference, number = handed.subject.reference, 0 if errors.stage == "gemm1" else 1
    both = {e: reference.expert(e) for e in range(handed.layer_spec.held_experts)}
    ids = handed.ids.flatten()[errors.numbers[[int(one.rows[0]) for one in given]]]
    first = both[0]

    def part(matrix: Tensor) -> Tensor:
        pair = (matrix, first[1]) if number == 0 else (first[0], matrix)
        return sharded(handed, *pair)[number]

    return Experts(
        fmt=reference.weight_format,
        matrices={e: pair[number].float() for e, pair in both.items()},
        other={e: pair[1 - number].float() for e, pair in both.items()},
        own=handed.global_ids(ids).tolist(),
        local=handed.layer_spec.experts_of(handed.rank),
        part=part,
    )


def which_totals(
    errors: StageErrors, given: Sequence[Multiplied], experts: Experts
) -> list[NamedCause]:
    """Return at most one statement, of values whose global scale explains all rows."""
    if not bool(errors.actual.isfinite().all()):
        return []
    for text, largest in experts.others():
        predicted = errors.expected.clone()
        for one, expert in zip(given, experts.own, strict=True):
            made = made_with(experts.matrices[expert], experts.fmt, largest[expert])
            predicted[one.rows] += one.x @ (experts.part(made) - one.codes.values).T
        residual = errors.left_by(predicted)
        if residual is not None and residual <= MAX_RESIDUAL:
            cause = f"{errors.place} the weights have the global scale of {text}"
            return [NamedCause(name=NAME, cause=cause, residual=residual)]
    return []


def made_with(w: Tensor, fmt: Format, amax: Tensor) -> Tensor:
    """Return a matrix [O, I] quantized with the global scale of values up to amax []."""
    total = global_scale(amax, fmt)
    scale = formats.scale_for(formats.scope_amax(w, fmt), fmt, total=total)
    return formats.quantized_values(w, scale.broadcast_to(w.shape), fmt)
