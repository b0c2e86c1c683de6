"""Find by which other formula wrong router weights were computed, or how they are off.

The weights are float32 and their tolerance is 2**-18 of a row's largest one, so that no formula
fits by chance; two that are the same for a router are both named.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks.stage_bound import MOST_NAMED
from harness.diagnosis.conditions import Fact, splitting
from harness.diagnosis.router_formulas import Routed, formulas
from harness.diagnosis.stage_errors import StageErrors
from harness.diagnosis.which_factor import which_factor
from harness.fixtures.routing_truth import judging_truths
from harness.fixtures.undefined_rows import defined_rows
from harness.record.diagnosis import NamedCause
from moe.reference.router_rounding import all_scores
from moe.reference.routing import WEIGHT_NOISE
from moe.routers import ROUTERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.router_formulas import Formula

NAME = "router_weights"
REACH = 4.0  # times the tolerance of a right weight: formulas are computed otherwise, too
MOST_PARTS = 2  # of a formula that are replaced at once
MOST_ROWS = 512
# Wrong rows, unless all are wrong: fewer may fit some formula by chance, but for those that differ
# in one part and give the right rows, too
FEWEST = 4
SAME = 1e-3  # relative distance at which two solutions for a parameter are the same


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield what explains all wrong weights of the router, if it chose right experts."""
    routed, weights = routed_of(evidence)
    if routed is None or weights is None:
        return
    yield from router_weights(routed, weights)


def routed_of(evidence: Evidence) -> tuple[Routed | None, Tensor | None]:
    """Return what the router got and chose, and its weights [T, k]; None if nobody judges it."""
    case, call = evidence.scene.case, evidence.call
    if evidence.subject is None or not ROUTERS.row(case.router).is_judged:
        return None, None
    rows = defined_rows(call.tokens)[:MOST_ROWS]
    if len(rows) == 0:
        return None, None
    truth = judging_truths(case, rows.device)[0]
    ids = call.output.routing.topk_ids[rows, : case.top_k].long()
    weights = call.output.routing.topk_weights[rows, : case.top_k]
    logits = call.tokens.logits[rows].double()
    return Routed(truth=truth, logits=logits, ids=ids), weights.double()


def router_weights(routed: Routed, weights: Tensor) -> list[NamedCause]:
    """Return the statements about weights [T, k]; none if they are right, or the choice is not."""
    errors = routed.truth.errors(routed.logits, routed.ids.int(), weights.float())
    if not errors or "wrong weights" not in errors[0] or not bool(weights.isfinite().all()):
        return []
    limits = routed.truth.limits(routed.logits, routed.ids)
    expected, wrong = limits.middle, limits.exclude(weights).any(dim=1)
    is_few = int(wrong.sum()) < FEWEST and not bool(wrong.all())
    where = _where(wrong)
    for same_size in formulas(routed, 1 if is_few else MOST_PARTS):
        fitting = [f for f in same_size if _fits(f, weights, expected, wrong)]
        full = [f for f in fitting if bool(is_close(weights, f.weights, REACH).all())]
        if full or (fitting and not is_few):
            place = "" if full else where
            best = min(len(f.texts) for f in full or fitting)
            shown = [f for f in full or fitting if len(f.texts) == best][:2]
            return [_cause(" and ".join(formula.texts), place) for formula in shown]
    if is_few:
        return []
    text = solved(routed, weights[wrong], wrong)
    if text is not None:
        return [_cause(text, where)]
    factor = which_factor(_errors(routed, weights, expected))
    return [] if factor is None else [factor]


def is_close(weights: Tensor, others: Tensor, reach: float) -> Tensor:
    """Return [T] bool, the rows whose weights are within float32's noise of others [T, k]."""
    size = torch.maximum(weights.abs(), others.abs()).amax(dim=1, keepdim=True)
    return ((weights - others).abs() <= reach * WEIGHT_NOISE * size).all(dim=1)


def _fits(formula: Formula, weights: Tensor, expected: Tensor, wrong: Tensor) -> bool:
    """Tell whether the formula gives the wrong rows, and is not the right one there."""
    is_its = is_close(weights[wrong], formula.weights[wrong], REACH)
    return bool(is_its.all()) and not bool(is_close(formula.weights, expected, REACH)[wrong].any())


def _where(wrong: Tensor) -> str:
    """Return a clause about the wrong rows; empty if all are."""
    if bool(wrong.all()):
        return ""
    numbers = torch.arange(len(wrong), device=wrong.device).double()
    conditions = splitting([Fact(one="token", many="tokens", values=numbers)], wrong, ~wrong)
    if conditions:
        return f"for {conditions[0].text} only"
    listed = wrong.nonzero().flatten().tolist()
    tokens = ", ".join(map(str, listed[:MOST_NAMED]))
    more = ", ..." if len(listed) > MOST_NAMED else ""
    return f"for {len(listed)} of {len(wrong)} tokens only ({tokens}{more})"


def _cause(text: str, where: str) -> NamedCause:
    shown = " ".join(filter(None, (text, where)))
    return NamedCause(name=NAME, cause=f"in the router {shown}", residual=0.0)


def solved(routed: Routed, weights: Tensor, wrong: Tensor) -> str | None:
    """Return a formula with a number that all wrong rows [w, k] agree on, in words, or None."""
    scores = routed.chosen(all_scores(routed.truth.router, routed.logits))[wrong]
    scale = routed.truth.method.scale
    total = scores.sum(dim=1, keepdim=True)
    added = _agreed(scores * scale / weights - total, total)
    if added is not None:
        return f"{added:.3g} is added to the sum by which scores are renormalised"
    offset = _agreed(weights - scores * scale / total, weights)
    if offset is not None:
        return f"{offset:.3g} is added to each weight"
    return _temperature(routed, weights, wrong)


def _agreed(values: Tensor, unit: Tensor) -> float | None:
    """Return the number that all values [w, k] are, within float32's noise of `unit`, or None."""
    middle = values.median()
    noise = 8 * WEIGHT_NOISE * unit.abs()
    if not bool(((values - middle).abs() <= noise).all()) or float(middle.abs()) < SAME / 100:
        return None
    return float(middle)


def _temperature(routed: Routed, weights: Tensor, wrong: Tensor) -> str | None:
    """Return by which factor the logits were multiplied before a softmax, in words, or None."""
    logits = routed.chosen(routed.logits)[wrong]
    if logits.shape[1] < 2 or not bool((weights > 0).all()):
        return None
    distance = logits[:, :1] - logits[:, 1:]
    ratio = (weights[:, :1] / weights[:, 1:]).log() / distance
    known = distance.abs() > 1 / 16
    if not bool(known.any()):
        return None
    factor = float(ratio[known].median())
    if abs(factor - 1) < SAME or not bool(((ratio[known] - factor).abs() <= SAME).all()):
        return None
    of_all = torch.softmax(routed.logits[wrong] * factor, dim=1).gather(1, routed.ids[wrong])
    for values in (of_all, of_all / of_all.sum(dim=1, keepdim=True)):
        predicted = values * routed.truth.method.scale
        if bool(((predicted - weights).abs() <= SAME * weights.abs()).all()):
            return f"the logits are multiplied by {factor:.3g} before the softmax"
    return None


def _errors(routed: Routed, weights: Tensor, expected: Tensor) -> StageErrors:
    """Return the weights as a table of one column, a row for each token and slot."""
    tokens, k = weights.shape
    slots = torch.arange(k, device=weights.device).repeat(tokens)
    numbers = torch.arange(tokens * k, device=weights.device)
    flat, right = weights.float().reshape(-1, 1), expected.float().reshape(-1, 1)
    return StageErrors(
        stage="router",
        noun="router weights",
        actual=flat,
        expected=right,
        tolerance=(REACH * WEIGHT_NOISE * right.abs()).clamp(min=1e-30),
        numbers=numbers,
        facts=(
            Fact(one="expert", many="experts", values=routed.ids.flatten().double()),
            Fact(one="slot", many="slots", values=slots.double()),
            Fact(one="token", many="tokens", values=(numbers // k).double()),
        ),
    )
