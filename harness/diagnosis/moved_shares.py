"""Find sums in which some terms are those of other rows or slots, such as another token's share.

Each rule says from where an index that is wrong takes the term of a slot: the row before it, one
and the same row, the slot before it. Which slots follow the rule is solved by least squares, so
that a rule is named only if each slot follows it in all rows, or in none.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.diagnosis import output_terms, stage_terms
from harness.diagnosis.evidence import MANY_ROWS
from harness.diagnosis.share_sources import Source, sources
from harness.diagnosis.terms import fitted_where
from harness.diagnosis.wrong_rows import spread
from harness.record.diagnosis import NamedCause
from harness.record.formatting import numbers_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.terms import Terms

NAME = "moved_shares"
MOST_NAMED = 2
ENDING = ", in a circle"
NOUNS = ("shares", "sums")
LATE = ("shared", "finalize", "restored", "out")  # what is wrong in them is wrong in the output
FEW_ROWS, FEW_COLUMNS = 12, 128  # wrong rows and columns on which each rule is tried first
SAME = 0.1  # distance of a solved coefficient from 0 or 1
UNKNOWN = "; where that one is not computed here, the sum is NaN"
OWN, THEIRS = ", weighted by the token's own router weights", ""


@dataclass(frozen=True, kw_only=True)
class Summed:
    """Sums over slots or ranks. rows: [R] int64, their numbers. weights, experts: [R, P] of the
    slots, or None where the terms are not weighted.
    """

    terms: Terms
    rows: Tensor
    weights: Tensor | None = None
    experts: Tensor | None = None


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield from where the wrong terms of a sum over slots, or over ranks, come."""
    each = (moved_shares(summed) for summed in sums_of(evidence))
    yield from next((causes for causes in each if causes), ())


def sums_of(evidence: Evidence) -> Iterator[Summed]:
    """Yield the sums of the first wrong stage, and of the output where this comes late."""
    if evidence.stage is not None:
        for terms in stage_terms.terms_of(evidence):
            if terms.noun in NOUNS and not terms.where:
                yield _of_stage(evidence, terms)
        if evidence.stage.stage not in LATE:
            return
    routing = evidence.call.output.routing
    if len(evidence.is_wrong) > MANY_ROWS or not bool(evidence.mismatch.rows.any()):
        return
    rows = evidence.larger.rows
    for terms in output_terms.terms_of(evidence, evidence.larger):
        k = routing.topk_ids.shape[1]
        if terms.noun in NOUNS and not terms.where and terms.values.shape[1] >= k:
            more = (0, terms.values.shape[1] - k)
            weights, ids = routing.topk_weights[rows].float(), routing.topk_ids[rows].long()
            passed = torch.where(ids >= evidence.scene.case.num_experts, weights, 0).sum(dim=1)
            weights = torch.nn.functional.pad(weights, more, value=1.0)
            if evidence.scene.case.zero_experts:  # the last part, times its own weight
                weights[:, -1] = passed
            ids = torch.nn.functional.pad(ids, more, value=-1)
            yield Summed(terms=terms, rows=rows, weights=weights, experts=ids)
        return


def _of_stage(evidence: Evidence, terms: Terms) -> Summed:
    """Return the terms with their rows' numbers, and with weights and experts of `combine`."""
    if terms.numbers is None:
        (of_terms,) = (fact.values for fact in terms.facts if fact.one == "row")
        rows, routing = (
            of_terms.view(terms.values.shape[:2])[:, 0].long(),
            evidence.call.output.routing,
        )
        if terms.noun == "sums":
            return Summed(terms=terms, rows=rows)
        weights, ids = routing.topk_weights.float()[rows], routing.topk_ids.long()[rows]
        return Summed(terms=terms, rows=rows, weights=weights, experts=ids)
    handed = stage_terms.handed_of(evidence)
    weights = handed.stages["weights"].value.float()[terms.numbers]
    return Summed(
        terms=terms, rows=terms.numbers, weights=weights, experts=handed.ids[terms.numbers]
    )


def moved_shares(summed: Summed) -> list[NamedCause]:
    """Return the rules by which all wrong rows hold terms of other rows or slots; at most two.

    Where none explains the right rows, too, one that explains the wrong ones.
    """
    terms = summed.terms
    is_finite = terms.actual.isfinite().all(dim=1)
    wrong = spread((terms.is_wrong & is_finite).nonzero().flatten(), FEW_ROWS)
    if terms.values.shape[1] < 2 or len(wrong) == 0:
        return []
    rules = list(sources(summed.rows, terms.has_term, summed.experts))
    named: dict[str, NamedCause] = {}  # by rule, whatever becomes of rows at the ends
    places: list[Tensor] = []
    for weighting in (THEIRS,) if summed.weights is None else (THEIRS, OWN):
        for source, follows in _fitting(summed, rules, weighting, wrong):
            fit, has_nan = _fit(summed, source, weighting, follows)
            if fit is None or any(torch.equal(source.at, at) for at in places):
                continue
            places.append(source.at)
            residual, where = fit
            text = _text(summed, source, follows) + weighting + (UNKNOWN if has_nan else "")
            rule = text.replace(ENDING, "")
            cause = NamedCause(name=NAME, cause=text, residual=residual, where=where)
            if rule not in named or named[rule].where:
                named[rule] = cause
        if any(not cause.where for cause in named.values()):
            break
    full = [cause for cause in named.values() if not cause.where]
    return full[:MOST_NAMED] or list(named.values())[:1]


def _fit(
    summed: Summed, source: Source, weighting: str, follows: Tensor
) -> tuple[tuple[float, str] | None, bool]:
    """Return which part of the error a rule leaves, and where it holds; None if it does not.

    Rows for which it takes a term that was never computed may hold NaN; the other value tells
    whether some do.
    """
    terms = summed.terms
    every = torch.arange(len(terms.actual), device=follows.device)
    change = _changes(summed, source.at, weighting, every)
    predicted = terms.expected + (change * follows[:, None]).sum(dim=1)
    has_term = terms.has_term.flatten()[source.at.clamp(min=0)] & (source.at >= 0)
    takes_none = (~has_term & follows & terms.has_term).any(dim=1)
    is_nan = terms.actual.isnan().any(dim=1) & takes_none
    known = torch.where(is_nan[:, None], predicted, terms.actual)
    return fitted_where(dataclasses.replace(terms, actual=known), predicted), bool(is_nan.any())


def _fitting(
    summed: Summed, rules: Sequence[Source], weighting: str, wrong: Tensor
) -> Iterator[tuple[Source, Tensor]]:
    """Yield the rules that may explain a few wrong rows, and [P] bool, the slots that follow each.

    All rules are solved at once, from some of the columns.
    """
    terms = summed.terms
    columns = spread(torch.arange(terms.values.shape[2], device=wrong.device), FEW_COLUMNS)
    at = torch.stack([source.at for source in rules])[:, wrong]
    change = _changes(summed, at, weighting, wrong, columns).double()  # [S, r, P, c]
    error = (terms.actual - terms.expected)[wrong][:, columns].double()
    weight = terms.tolerance[wrong].double().clamp(min=1e-30).square().reciprocal()
    gram = torch.einsum("srpc,srqc,r->spq", change, change, weight)
    right = torch.einsum("srpc,rc,r->sp", change, error, weight)
    inverse = torch.linalg.pinv(gram.nan_to_num(posinf=0, neginf=0), rtol=1e-9, hermitian=True)
    solved = (inverse @ right.nan_to_num(posinf=0, neginf=0)[:, :, None])[:, :, 0]
    follows = solved > 0.5
    is_plain = ((solved - follows.double()).abs() <= SAME).all(dim=1) & follows.any(dim=1)
    for number in is_plain.nonzero().flatten().tolist():
        source, its = rules[number], follows[number]
        if weighting == OWN or not _are_rows(summed, source, its):  # whole rows: `rows_moved`
            yield source, its


def _are_rows(summed: Summed, source: Source, follows: Tensor) -> bool:
    """Tell whether all terms of each row come from one row, and keep their slots."""
    slots = len(follows)
    row, slot = source.at // slots, source.at % slots
    keeps_slots = slot == torch.arange(slots, device=slot.device)
    is_one = (row == row.amax(dim=1, keepdim=True)) & keeps_slots
    is_one |= (source.at < 0).all(dim=1, keepdim=True)  # no row: zeros
    every = bool((is_one | ~summed.terms.has_term).all())
    return every and bool(follows[summed.terms.has_term.any(dim=0)].all())


def _changes(
    summed: Summed, at: Tensor, weighting: str, chosen: Tensor, columns: Tensor | None = None
) -> Tensor:
    """Return [..., r, P, C], by how much each term of the chosen rows would change.

    at: [..., r, P], of a source. columns: the only ones to return; None: all.
    """
    values = summed.terms.values
    values = values if columns is None else values[:, :, columns]
    taken = torch.where((at >= 0)[..., None], values.flatten(0, 1)[at.clamp(min=0)], 0.0)
    if weighting == OWN:
        assert summed.weights is not None, "shares have weights"
        theirs = summed.weights.flatten()[at.clamp(min=0)]
        ratio = torch.where(theirs != 0, summed.weights[chosen] / theirs, 0.0)
        taken = taken * ratio[..., None]
    if summed.weights is not None:  # slots without an expert are skipped
        taken = taken * summed.terms.has_term[chosen][:, :, None]
    changes: Tensor = taken - values[chosen]
    return changes


def _text(summed: Summed, source: Source, follows: Tensor) -> str:
    """Return which terms come from where, as a clause."""
    terms = summed.terms
    place = f"in stage {terms.stage} " if terms.stage else ""
    numbers = follows.nonzero().flatten().tolist()
    kinds = [fact for fact in terms.facts if fact.names and terms.noun == "shares"]
    parts = [int(kinds[0].values[number]) for number in numbers] if kinds else []
    if any(parts):
        named = " and ".join(dict.fromkeys(kinds[0].names[part] for part in parts))
        return f"{place}what {named} add is that of {source.text}"
    if terms.noun == "sums":
        (ranks,) = (fact for fact in terms.facts if fact.one == "rank")
        which = ranks.text([int(ranks.values[number]) for number in numbers])
        which = f"the sums of {which}"
    elif summed.weights is not None and bool(follows.all()):
        which = "all shares"
    else:
        which = (
            f"the share{'s' if len(numbers) > 1 else ''} of slot{'s' if len(numbers) > 1 else ''} "
        )
        which += numbers_text(numbers)
    verb = "is that" if which.startswith("the share ") else "are those"
    return f"{place}{which} {verb} of {source.text}"
