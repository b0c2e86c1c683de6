"""Find by which other rule wrong experts were chosen, or where the ids of right ones went.

A rule is named only if it gives the experts of every wrong token, and other ones than the right
rule does there.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import torch

from harness.diagnosis.conditions import Fact, splitting
from harness.diagnosis.router_weights import routed_of
from harness.record.diagnosis import NamedCause
from harness.record.formatting import numbers_text
from moe.reference.formats import on_grid
from moe.reference.limited_choice import Keys
from moe.reference.router_rounding import all_scores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.router_formulas import Routed

NAME = "router_choice"
CHANCE = 0.01  # largest probability that some rule gives all wrong tokens' experts by chance
MOST_NAMED = 2
NARROW = ("bf16", "fp16")


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield the rules that give the experts of all wrong tokens."""
    routed, _ = routed_of(evidence)
    if routed is not None:
        yield from router_choice(routed)


def router_choice(routed: Routed) -> list[NamedCause]:
    """Return the rules that give the ids of all wrong tokens; none if all ids are right."""
    wrong = ~are_valid(routed)
    if not bool(wrong.any()):
        return []
    ways = math.comb(routed.logits.shape[1], routed.ids.shape[1])
    rules = list(choices(routed))
    by_chance = len(rules) * float(ways) ** -int(wrong.sum())
    if by_chance > CHANCE:  # then a rule must give the experts of all tokens
        if by_chance / math.comb(len(wrong), int(wrong.sum())) > CHANCE:
            return []
        rules = [(text, ids) for text, ids in rules if _gives_all(routed, ids)]
    right = keys_of(routed).choose(routed.ids.shape[1]).long()
    where = _where(wrong)
    fitting = [
        text if _gives_all(routed, ids) else f"{text}{where}"
        for text, ids in rules
        if _fits(routed, ids, right, wrong)
    ]
    if by_chance <= CHANCE:
        fitting = fitting or [text for text, keys in roundings(routed) if _follows(routed, keys)]
    return [
        NamedCause(name=NAME, cause=f"in the router {text}", residual=0.0)
        for text in fitting[:MOST_NAMED]
    ]


def are_valid(routed: Routed) -> Tensor:
    """Return [T] bool, the tokens whose experts are distinct, exist, and are the best."""
    experts = routed.logits.shape[1]
    inside = ((routed.ids >= 0) & (routed.ids < experts)).all(dim=1)
    is_chosen = torch.zeros_like(routed.logits, dtype=torch.bool)
    is_chosen.scatter_(1, routed.ids.clamp(0, experts - 1), True)
    is_distinct = is_chosen.sum(dim=1) == routed.ids.shape[1]
    return inside & is_distinct & routed.truth.is_valid(routed.logits, is_chosen)


def keys_of(routed: Routed) -> Keys:
    """Return the keys by which experts are to be chosen."""
    if routed.truth.numerics.rounds_choice:
        return routed.truth.rounded_keys(routed.logits)
    if routed.truth.by_logits:
        return _keys(routed, routed.logits)
    return routed.truth.keys(routed.logits)


def _keys(routed: Routed, values: Tensor, *, limited: bool = True) -> Keys:
    """Return these values [T, E] as keys, with the groups of the layer or without any."""
    method = routed.truth.method
    groups = (method.groups, method.chosen_groups) if limited else (1, 1)
    return Keys(values=values, noise=values.new_zeros(1), groups=groups[0], chosen_groups=groups[1])


def choices(routed: Routed) -> Iterator[tuple[str, Tensor]]:
    """Yield other rules in words, and the ids [T, k] that they give."""
    k, keys = routed.ids.shape[1], keys_of(routed)
    values, right = keys.values, keys.choose(routed.ids.shape[1]).long()
    experts = values.shape[1]
    for text, other in _other_keys(routed, keys):
        yield text, other.choose(k).long()
    ordered = _keys(routed, values, limited=False).choose(experts).long()
    if k < experts:
        yield "the best expert is left out", ordered[:, 1 : k + 1]
        yield "the experts with the lowest scores are chosen", ordered[:, -k:]
    for step, side in ((1, "high"), (-1, "low")):
        yield f"the ids are one too {side}", right + step
        yield f"the ids are one too {side}, modulo the experts", (right + step) % experts
    for step, side in ((1, "before"), (-1, "after")):
        yield f"each token has the experts of the token {side} it", right.roll(step, 0)
        if k > 1:
            yield f"each slot has the id of the slot {side} it", _shifted(right, step)
    yield "all slots have the id of the first one", right[:, :1].expand_as(right)
    yield "all tokens have the experts of the first one", right[:1].expand_as(right)
    yield "experts are numbered from the last one on", experts - 1 - right
    yield from _of_some(routed, values)


def _shifted(ids: Tensor, step: int) -> Tensor:
    """Return ids [T, k] moved by a slot; the slot at the end keeps its own."""
    moved = ids.roll(step, 1)
    end = 0 if step > 0 else -1
    moved[:, end] = ids[:, end]
    return moved


def _other_keys(routed: Routed, keys: Keys) -> Iterator[tuple[str, Keys]]:
    """Yield other keys than the right ones, in words."""
    bias, method = routed.truth.bias, routed.truth.method
    if bias is not None:
        scores, own = all_scores(routed.truth.router, routed.logits), bias.double()
        yield "experts are chosen without the correction bias", _keys(routed, scores)
        yield "the correction bias is subtracted", _keys(routed, scores - own)
        yield "the correction bias is added twice", _keys(routed, scores + 2 * own)
        yield (
            "the correction bias is added to the logits",
            _keys(routed, all_scores(routed.truth.router, routed.logits + own)),
        )
    if method.is_limited:
        yield "no group of experts is left out", _keys(routed, keys.values, limited=False)
        if bias is not None:
            best = scores.view(len(scores), method.groups, -1)
            score = best.topk(min(2, best.shape[2]), dim=2).values.sum(dim=2)
            text = "groups are ranked without the correction bias"
            yield text, _in_groups(routed, keys.values, score)
        by_group = keys.values.view(len(keys.values), method.groups, -1)
        for text, score in (
            ("groups are ranked by their best expert alone", by_group.amax(dim=2)),
            ("groups are ranked by the sum of all their experts", by_group.sum(dim=2)),
            ("groups are ranked by their worst expert", by_group.amin(dim=2)),
        ):
            yield text, _in_groups(routed, keys.values, score)


def _in_groups(routed: Routed, values: Tensor, score: Tensor) -> Keys:
    """Return the keys with -inf outside of the groups with the highest score [T, groups]."""
    best = score.topk(routed.truth.method.chosen_groups, dim=1).indices
    kept = torch.zeros_like(score, dtype=torch.bool).scatter_(1, best, True)
    spread = kept.repeat_interleave(values.shape[1] // score.shape[1], dim=1)
    return _keys(routed, values.masked_fill(~spread, -torch.inf), limited=False)


def _of_some(routed: Routed, values: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield the choice among the experts that are chosen at all, if a condition tells these."""
    experts, k = values.shape[1], routed.ids.shape[1]
    inside = routed.ids[(routed.ids >= 0) & (routed.ids < experts)]
    is_used = torch.bincount(inside, minlength=experts) > 0
    if bool(is_used.all()) or int(is_used.sum()) < k:
        return
    numbers = torch.arange(experts, device=values.device).double()
    facts = [Fact(one="expert", many="experts", values=numbers)]
    named = splitting(facts, ~is_used, is_used)
    never = (
        named[0].text
        if named
        else f"experts {numbers_text((~is_used).nonzero().flatten().tolist())}"
    )
    limited = _keys(routed, values.masked_fill(~is_used, -torch.inf), limited=False)
    yield f"{never} are never chosen", limited.choose(k).long()


def roundings(routed: Routed) -> Iterator[tuple[str, Keys]]:
    """Yield keys that follow from rounded scores or logits, in words."""
    keys = keys_of(routed)
    for dtype in NARROW:
        rounded = on_grid(keys.values.float(), dtype).double()
        text = f"experts are chosen by scores that are rounded to {dtype}"
        yield text, _keys(routed, rounded)
        logits = on_grid(routed.logits.float(), dtype).double()
        other = keys_of(dataclasses.replace(routed, logits=logits))
        yield f"experts are chosen by logits that are rounded to {dtype}", other


def _follows(routed: Routed, keys: Keys) -> bool:
    """Tell whether every token's experts are the best ones by other keys, but for ties."""
    experts = keys.values.shape[1]
    if bool((routed.ids < 0).any()) or bool((routed.ids >= experts).any()):
        return False
    is_chosen = torch.zeros_like(keys.values, dtype=torch.bool).scatter_(1, routed.ids, True)
    is_distinct = is_chosen.sum(dim=1) == routed.ids.shape[1]
    return bool((keys.is_valid(is_chosen) & is_distinct).all())


def _gives_all(routed: Routed, ids: Tensor) -> bool:
    """Tell whether a rule's ids [T, k] are those of every token."""
    return torch.equal(ids.sort(dim=1).values, routed.ids.sort(dim=1).values)


def _fits(routed: Routed, ids: Tensor, right: Tensor, wrong: Tensor) -> bool:
    """Tell whether a rule's ids [T, k] are those of every wrong token, and not the right ones."""
    given = routed.ids[wrong].sort(dim=1).values
    same = ids[wrong].sort(dim=1).values == given
    return bool(same.all()) and not bool((right[wrong].sort(dim=1).values == given).all())


def _where(wrong: Tensor) -> str:
    """Return a clause about the wrong tokens; empty if a rule holds for all."""
    if bool(wrong.all()):
        return ""
    numbers = torch.arange(len(wrong), device=wrong.device).double()
    conditions = splitting([Fact(one="token", many="tokens", values=numbers)], wrong, ~wrong)
    return f" for {conditions[0].text} only" if conditions else ""
