"""Find terms of a sum that are left out, or count twice or by another factor.

Each row is solved for how often every term is in it. What the changed terms have in common, such as
their slot or expert, makes the statement. It must then predict every row, wrong and right ones.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import torch

from harness.diagnosis import output_terms, stage_terms
from harness.diagnosis.conditions import splitting
from harness.diagnosis.fit import MAX_RESIDUAL
from harness.diagnosis.terms import left_by
from harness.record.diagnosis import NamedCause

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.terms import Counts, Terms

NAME = "which_shares"
WORDS = {0.0: "are left out", 2.0: "count twice", 3.0: "count three times", 0.5: "count half"}
SIMPLE = (0.0, 2.0, 0.5, -1.0, 3.0, 4.0, 0.25, 1.5, 8.0, 0.125)
SAME = 0.03  # distance at which a factor is taken for a simple one
MOST_LISTED = 3  # terms that are named one by one
OF_ITS_OWN = (
    "each wrong row is the sum of its experts' right outputs, each by another factor than the "
    "right one: router weights, ids, slots or a scale for each row are wrong, not the products"
)
FEWEST = 2  # wrong rows that are sums by factors of their own
MOST_VALUES = 2  # different factors in one statement


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield the cause if terms of the first wrong stage count otherwise; else, of the output.

    Of the output nothing is said if scales, ids or router weights are wrong first.
    """
    causes = list(_of_stage(evidence))
    if evidence.stage is None or evidence.stage.noun == "elements":
        causes = causes or list(_of_output(evidence))
    yield from causes


def _of_stage(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield the cause with the largest blocks: smaller ones than those that are wrong fit, too.

    One that lists terms gives way to a condition, which more and smaller terms may show.
    """
    each = (which_shares(terms) for terms in stage_terms.terms_of(evidence))
    causes = [c for c in each if c is not None]
    named = [cause for cause in causes if not cause.where]
    yield from (named or causes)[:1]


def _of_output(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield the cause if shares of the output count otherwise.

    A few rows tell whether the errors are sums of terms; more of them, which terms these are.
    """
    for number, few in enumerate(evidence.shares):
        if not _factors(few, few.counts):
            continue
        of_more = output_terms.terms_of(evidence, evidence.larger)
        cause = which_shares(next(itertools.islice(of_more, number, None)))
        if cause is not None:
            yield cause


def which_shares(terms: Terms) -> NamedCause | None:
    """Return the cause if terms that a condition names, or all, count by another factor."""
    if not bool(terms.values.isfinite().all()):
        return None
    counts = terms.counts
    factors = _factors(terms, counts)
    named = [_named(terms, is_its, _known(terms, counts)) for _, is_its in factors]
    if not named:
        return None
    times = torch.ones_like(counts.value)
    for (value, _), (_, holds, _) in zip(factors, named, strict=True):
        times = torch.where(holds & terms.has_term, value, times)
    fits, residual = left_by(terms, terms.changed_by(times.float()))
    if not bool(fits.all()) or residual > MAX_RESIDUAL:
        return None
    pairs = sorted(zip(factors, named, strict=True), key=lambda pair: pair[0][0])
    text = ", and ".join(f"{text} {_words(value)}" for (value, _), (text, _, _) in pairs)
    text = f"in stage {terms.stage} {text}" if terms.stage else text
    where = ", ".join(filter(None, [terms.where, *(where for _, _, where in named)]))
    return NamedCause(name=NAME, cause=text, residual=residual, where=where)


def factors_of_each_row(terms: Terms) -> NamedCause | None:
    """Return the cause if each wrong row sums its right shares by factors of its own."""
    counts = terms.counts
    if int(terms.is_wrong.sum()) < FEWEST or not bool(counts.explained[terms.is_wrong].all()):
        return None
    fits, residual = left_by(terms, terms.changed_by(counts.value.float()))
    changed = _changed(terms, counts) & terms.is_wrong[:, None]
    if not bool(fits.all()) or residual > MAX_RESIDUAL or not bool(changed.any()):
        return None
    return NamedCause(name=NAME, cause=OF_ITS_OWN, residual=residual, where=terms.where)


def _factors(terms: Terms, counts: Counts) -> list[tuple[float, Tensor]]:
    """Return the factors of changed terms, each with its terms [R, P] bool.

    [] if some wrong row is no sum of its terms, or if the factors are too many.
    """
    if not bool(counts.explained[terms.is_wrong].all()):
        return []
    factors: list[tuple[float, Tensor]] = []
    unexplained = _changed(terms, counts)
    while bool(unexplained.any()) and len(factors) < MOST_VALUES:
        value = _value(counts.value[unexplained], counts.error[unexplained])
        is_its = unexplained & ((counts.value - value).abs() <= 2 * counts.error)
        if not bool(is_its.any()):
            return []
        factors.append((value, is_its))
        unexplained = unexplained & ~is_its
    return [] if bool(unexplained.any()) else factors


def _changed(terms: Terms, counts: Counts) -> Tensor:
    """Return [R, P] bool: terms that surely do not count once."""
    is_sure = terms.has_term & counts.explained[:, None]
    return is_sure & ((counts.value - 1).abs() > 2 * counts.error)


def _known(terms: Terms, counts: Counts) -> Tensor:
    """Return [R, P] bool: terms that surely count once, or surely do not.

    Others are small, or too like each other, for their row's noise.
    """
    is_sure = terms.has_term & counts.explained[:, None]
    counts_once = is_sure & ((counts.value - 1).abs() <= counts.error)
    return counts_once | _changed(terms, counts)


def _value(values: Tensor, errors: Tensor) -> float:
    """Return the factor of most of these terms [n]; a simple one if their mean is as near to it."""
    simple = values.new_tensor(SIMPLE)
    is_near = (values[:, None] - simple).abs() <= 2 * errors[:, None]
    best = int(is_near.sum(dim=0).argmax())
    if bool(is_near[:, best].any()):
        mean = _mean(values, errors, is_near[:, best])
        if abs(mean - SIMPLE[best]) <= SAME * max(1.0, abs(mean)):
            return SIMPLE[best]
    return _mean(values, errors, (values - values.median()).abs() <= 2 * errors)


def _mean(values: Tensor, errors: Tensor, chosen: Tensor) -> float:
    """Return the mean of the chosen values, of which exact ones count most."""
    weights = errors[chosen].clamp(min=1e-9).square().reciprocal()
    return float((values[chosen] * weights).sum() / weights.sum())


def _named(terms: Terms, is_its: Tensor, is_known: Tensor) -> tuple[str, Tensor, str]:
    """Return what these terms are called, which are meant by that, [R, P] bool, and `where`.

    What a condition means holds for terms, too, that are too small to be known.
    """
    right = is_known & ~is_its
    if not bool(right.any()):
        return f"all {terms.noun}", torch.ones_like(is_its), ""
    rows = torch.arange(len(is_its), device=is_its.device).repeat_interleave(is_its.shape[1])
    facts = [dataclasses.replace(fact, within=rows) for fact in terms.facts]
    conditions = splitting(facts, is_its.flatten(), right.flatten())
    if not conditions:
        return f"some {terms.noun}", is_its, _listed(terms, is_its, int(is_known.sum()))
    text = f"the {terms.noun} of {conditions[0].text}"
    text = text if len(conditions) == 1 else f"{text} (the same: {conditions[1].text})"
    return text, conditions[0].holds.view(is_its.shape), ""


def _listed(terms: Terms, is_its: Tensor, known: int) -> str:
    """Return a few of the terms in words; nothing that was looked at tells them from others."""
    numbers = is_its.flatten().nonzero().flatten().tolist()
    items = [
        ", ".join(filter(None, (fact.of_item(number) for fact in terms.facts if not fact.names)))
        for number in numbers[:MOST_LISTED]
    ]
    more = "" if len(numbers) <= MOST_LISTED else ", ..."
    listed = ", ".join(f"({item})" for item in items)
    return f"{len(numbers)} of {known}: {listed}{more}"


def _words(value: float) -> str:
    if value == -1.0:
        return "count with the wrong sign"
    return WORDS.get(value, f"count {value:.3g} times")
