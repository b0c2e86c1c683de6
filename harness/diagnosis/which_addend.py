"""Find an amount that is wrongly added, or not, to all rows of an expert, as a bias is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.diagnosis.fit import MAX_RESIDUAL
from harness.diagnosis.stage_errors import MARGIN
from harness.record.diagnosis import NamedCause

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors

NAME = "which_addend"
STAGES = ("gemm1", "gemm2")
ENOUGH = 2.5  # rows of a wrong expert, on average: one row's error is always the same as itself


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield the cause if each column of an expert is off by one amount in all rows."""
    errors = evidence.errors
    if errors is None or errors.stage not in STAGES:
        return
    cause = which_addend(errors, _biases(evidence, errors))
    if cause is not None:
        yield cause


def which_addend(errors: StageErrors, biases: dict[int, Tensor] | None = None) -> NamedCause | None:
    """Return the cause, or None. biases: [C] of each expert; None: the layer has none."""
    (of_row,) = (fact.values for fact in errors.facts if fact.one == "expert")
    experts, at = torch.unique(of_row, return_inverse=True)
    if not _are_enough(errors, at) or not bool(errors.actual.isfinite().all()):
        return None
    weight = errors.noise.double().square().reciprocal()
    error = (errors.actual - errors.expected).double()
    zeros = torch.zeros((len(experts), error.shape[1]), dtype=torch.float64, device=at.device)
    size = zeros.index_add(0, at, weight)
    amount = zeros.index_add(0, at, weight * error) / size
    residual = errors.left_by(errors.expected + amount[at].float())
    if residual is None or residual > MAX_RESIDUAL:
        return None
    allowed = MARGIN * size.rsqrt() * torch.bincount(at).double()[:, None].sqrt()
    which = _which(amount, allowed, [int(e) for e in experts.tolist()], biases)
    what = f"each column is off by one amount in all rows of an expert: {which}"
    text = f"{errors.place} {what}"
    return NamedCause(name=NAME, cause=text, residual=residual)


def _are_enough(errors: StageErrors, at: Tensor) -> bool:
    """Tell whether the experts with wrong elements have enough rows. at: [R], the rows' experts."""
    wrong = torch.unique(at[errors.is_wrong.any(dim=1)])
    return int(torch.isin(at, wrong).sum()) >= ENOUGH * max(len(wrong), 1)


def _which(
    amount: Tensor, allowed: Tensor, experts: list[int], biases: dict[int, Tensor] | None
) -> str:
    """Return which bias explains the amounts [E, C] within `allowed`, [E, C]."""
    largest = f"up to {float(amount.abs().max()):.3g}, as a wrong bias gives"
    if biases is None:
        return largest
    own = torch.stack([biases[e] for e in experts]).double()

    def fits(change: Tensor) -> bool:
        return bool(((amount - change).abs() <= allowed).all())

    named = [text for text, change in _others(own, experts, biases) if fits(change)]
    return " (the same: ".join(named[:2]) + ")" * (len(named) > 1) if named else largest


def _others(
    own: Tensor, experts: list[int], biases: dict[int, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Yield in words by how much [E, C] a product is off with other biases than its own [E, C]."""
    yield "the bias is left out", -own
    yield "the bias is added twice", own
    for side, step in (("before", -1), ("after", 1)):
        for ending in ("", ", in a circle"):
            for which, table in (("expert", sorted(biases)), ("rank's expert", experts)):
                taken = [biases[_neighbour(table, e, step, ending)] for e in experts]
                text = f"the bias is that of the {which} {side}{ending}"
                yield text, torch.stack(taken).double() - own
    for number, bias in biases.items():
        yield f"the bias of expert {number} is added for all experts", bias.double() - own


def _neighbour(table: list[int], expert: int, step: int, ending: str) -> int:
    """Return the expert before or after in the table; beyond its end, the one there or at the other
    end, as the ending of the sentence says.
    """
    place, last = table.index(expert) + step, len(table) - 1
    return table[place % (last + 1) if ending else min(max(place, 0), last)]


def _biases(evidence: Evidence, errors: StageErrors) -> dict[int, Tensor] | None:
    """Return the bias [C] of each expert; None without biases, or where a rank has a part."""
    assert evidence.subject is not None
    reference = evidence.subject.reference
    biases: dict[int, Tensor] = {}
    for expert in range(reference.layer_spec.num_experts):
        pair = reference.biases(expert)
        bias = None if pair is None else pair[0 if errors.stage == "gemm1" else 1]
        if bias is None or len(bias) != errors.actual.shape[1]:
            return None
        biases[expert] = bias.float()
    return biases
