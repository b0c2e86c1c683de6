"""Split rows of a layer's output into the terms that they sum: shares of slots, or of ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks.output import row_tolerance
from harness.diagnosis.conditions import Fact
from harness.diagnosis.fit import TOLERANCE_FACTOR
from harness.diagnosis.terms import Terms
from harness.mutants.contributions import by_rank, by_slot, parts_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.mutants.sample import Scene

NOUN = "shares"
LEAST_COLUMNS = 4  # for each term of a row, so that noise is not taken for a sum of terms
PARTS = ("the routed experts", "the shared experts", "the zero experts")


def terms_of(evidence: Evidence, scene: Scene) -> Iterator[Terms]:
    """Yield the rows of a scene as sums over slots, and over ranks if these split experts."""
    slots = by_slot(scene)
    yield from _with_others(evidence, scene, slots, _slot_facts(evidence, scene))
    if scene.case.layout.size("moe_tp") > 1:
        ranks = by_rank(scene).transpose(0, 1)
        yield from _with_others(evidence, scene, ranks, [_rank_numbers(ranks)])


def _with_others(
    evidence: Evidence, scene: Scene, routed: Tensor, facts: list[Fact]
) -> Iterator[Terms]:
    """Yield the terms with those of shared and zero experts. routed: [r, P, K]."""
    values, kinds = [routed], [0] * routed.shape[1]
    if scene.answer.shared is not None:
        values.append(scene.answer.shared[:, None].to(routed.dtype))
        kinds.append(1)
    if scene.case.zero_experts:
        values.append(scene.passed()[:, None].to(routed.dtype))
        kinds.append(2)
    joined = torch.cat(values, dim=1)
    rows, count = joined.shape[:2]
    columns = evidence.columns
    if LEAST_COLUMNS * count > (joined.shape[2] if columns is None else int(columns.sum())):
        return
    more = count - routed.shape[1]
    padded = [_padded(fact, (rows, routed.shape[1]), more) for fact in facts]
    kind = scene.answer.out.new_tensor(kinds, dtype=torch.float64).repeat(rows)
    of_row = scene.rows.double().repeat_interleave(count)
    terms = Terms(
        noun=NOUN,
        actual=scene.actual.float(),
        expected=scene.answer.out.float(),
        tolerance=TOLERANCE_FACTOR * row_tolerance(scene.answer),
        is_wrong=evidence.is_wrong[scene.rows],
        values=joined.float(),
        facts=(
            Fact(one="", many="", values=kind, names=PARTS),
            *padded,
            Fact(one="row", many="rows", values=of_row),
        ),
    )
    yield terms if columns is None else terms.in_columns(columns)


def _padded(fact: Fact, shape: tuple[int, int], more: int) -> Fact:
    """Return a fact [r * P] with NaN for `more` further terms of each row."""
    values = torch.nn.functional.pad(fact.values.view(shape), (0, more), value=torch.nan)
    return fact.with_values(values.flatten())


def _slot_facts(evidence: Evidence, scene: Scene) -> list[Fact]:
    """Return what is known of the slots of rows, [r * k] each."""
    case, ids = scene.case, scene.expert_ids.double()
    ids = torch.where(ids < 0, torch.nan, ids)
    rows, k = ids.shape
    slots = torch.arange(k, device=ids.device, dtype=torch.float64).repeat(rows)
    facts = [Fact(one="slot", many="slots", values=slots)] if k > 1 else []
    facts.append(Fact(one="expert", many="experts", values=ids.flatten()))
    if case.layout.size("ep") > 1:
        ranks = _ranks_of_slots(scene)
        facts.append(Fact(one="rank", many="ranks", values=ranks))
        local = _local_ids(scene, ids.flatten(), ranks)
        facts.append(Fact(one="local expert", many="local experts", values=local))
        is_own = torch.where(ranks.isnan(), torch.nan, (ranks == scene.rank).double())
        names = ("other ranks' experts", "this rank's experts")
        facts.append(Fact(one="", many="", values=is_own, names=names))
    if len(case.layout.same_tokens(scene.rank)) == case.world_size:
        facts.append(_places(evidence, scene))
    weights = torch.where(ids.isnan(), torch.nan, scene.topk_weights.double()).flatten()
    facts.append(Fact(one="router weight", many="router weights", values=weights, is_measured=True))
    return facts


def _ranks_of_slots(scene: Scene) -> Tensor:
    """Return [r * k] float64, the rank that adds to each slot; NaN if none or several do."""
    adds = (parts_of(scene) != 0).any(dim=3)  # [W, r, k]
    rank = adds.to(torch.uint8).argmax(dim=0).double()
    return torch.where(adds.sum(dim=0) == 1, rank, torch.nan).flatten()


def _local_ids(scene: Scene, ids: Tensor, ranks: Tensor) -> Tensor:
    """Return [n] float64, the place of each expert among those of its rank; NaN if unknown."""
    spec = scene.reference.layer_spec
    table = torch.full((spec.layout.world_size, spec.held_experts), torch.nan, dtype=torch.float64)
    for rank, experts in enumerate(spec.experts_by_rank):
        table[rank, list(experts)] = torch.arange(len(experts)).double()
    is_known = ~(ids.isnan() | ranks.isnan())
    at = table.to(ids.device)[ranks.nan_to_num().long(), ids.nan_to_num().long()]
    return torch.where(is_known, at, torch.nan)


def _places(evidence: Evidence, scene: Scene) -> Fact:
    """Return how many earlier rows of the call chose the same expert, for each slot."""
    ids = evidence.call.output.routing.topk_ids.flatten().long()
    is_held = (ids >= 0) & (ids < scene.case.layer_spec.held_experts)
    places = place_among_equal(ids).double()
    k = scene.topk_ids.shape[1]
    values = torch.where(is_held, places, torch.nan).view(-1, k)[scene.rows].flatten()
    return Fact(
        one="its expert's row",
        many="its expert's rows",
        values=values,
        from_on="rows beyond the first {} of an expert",
        below="the first {} rows of each expert",
    )


def place_among_equal(numbers: Tensor) -> Tensor:
    """Return [n] int64, how many earlier elements are equal to each. numbers: [n] int64."""
    order = numbers.argsort(stable=True)
    in_order = numbers[order]
    index = torch.arange(len(numbers), device=numbers.device)
    is_first = torch.ones_like(in_order, dtype=torch.bool)
    is_first[1:] = in_order[1:] != in_order[:-1]
    start = torch.where(is_first, index, 0).cummax(dim=0).values
    return torch.empty_like(index).scatter_(0, order, index - start)


def _rank_numbers(ranks: Tensor) -> Fact:
    rows, count = ranks.shape[:2]
    values = torch.arange(count, device=ranks.device, dtype=torch.float64).repeat(rows)
    return Fact(one="rank", many="ranks", values=values)
