"""Find of which other logits a router's experts and weights are the right ones.

The weights are float32, so that other logits that give them all, and the experts, fit by no chance:
those of a gate whose product is rounded, of another token, of rows that are read too far apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.diagnosis.conditions import Fact, only_where
from harness.diagnosis.router_weights import REACH, is_close, routed_of
from harness.fixtures.undefined_rows import defined_rows
from harness.record.diagnosis import NamedCause
from moe.formats import FORMATS
from moe.reference.formats import on_grid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.router_formulas import Routed

NAME = "router_logits"
FEWEST = 2  # wrong tokens
MOST_NAMED = 2
NARROW = ("bf16", "fp16")


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield the other logits that give the ids and weights of all tokens."""
    routed, weights = routed_of(evidence)
    if routed is not None and weights is not None:
        rows = defined_rows(evidence.call.tokens)[: len(routed.ids)]
        yield from router_logits(routed, weights, evidence.call.tokens.logits.double(), rows)


def router_logits(
    routed: Routed, weights: Tensor, logits: Tensor, rows: Tensor
) -> Iterator[NamedCause]:
    """Yield at most MOST_NAMED statements about weights [T', k] of these rows of logits [T, E].

    Rows of which unknown logits were read may have any experts.
    """
    experts = logits.shape[1]
    if bool(((routed.ids < 0) | (routed.ids >= experts)).any()) or not bool(
        weights.isfinite().all()
    ):
        return
    wrong, number = ~follows(routed, routed.logits, weights), 0
    for text, other in other_logits(logits, rows):
        is_known = other.isfinite().all(dim=1)
        if int((wrong & is_known).sum()) < FEWEST:
            continue
        fits = follows(routed, torch.where(is_known[:, None], other, routed.logits), weights)
        fits |= ~is_known & wrong
        if not bool(fits[wrong].all()):
            continue
        where = "" if bool(fits.all()) else f" {_where(wrong)}"
        cause = f"in the router experts and weights are those of {text}{where}"
        yield NamedCause(name=NAME, cause=cause, residual=0.0)
        number += 1
        if number == MOST_NAMED:
            return


def follows(routed: Routed, logits: Tensor, weights: Tensor) -> Tensor:
    """Return [T] bool, the tokens whose ids and weights [T, k] are right ones of logits [T, E]."""
    is_chosen = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, routed.ids, True)
    is_distinct = is_chosen.sum(dim=1) == routed.ids.shape[1]
    limits = routed.truth.limits(logits, routed.ids)
    is_right = ~limits.exclude(weights).any(dim=1) | is_close(weights, limits.middle, REACH)
    return is_distinct & routed.truth.is_valid(logits, is_chosen) & is_right


def other_logits(logits: Tensor, rows: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield other logits in words and their values [R, E] in these rows; NaN where none is known.

    logits: [T, E] float64.
    """
    count, experts = logits.shape
    for dtype in NARROW:
        rounded = on_grid(logits.float(), dtype).double()
        if not torch.equal(rounded, logits):
            yield f"logits that are rounded to {dtype}, as a gate's product may be", rounded[rows]
    rounded = on_grid(logits.float().clamp(-448, 448), FORMATS["fp8_tensor"]).double()
    yield "logits that are rounded to e4m3", rounded[rows]
    for step, side in ((1, "before"), (-1, "after")):
        yield f"the token {side} each, in a circle", logits.roll(step, 0)[rows]
        yield f"logits of the expert {side} each, in a circle", logits.roll(step, 1)[rows]
    yield "the first token", logits[:1].expand_as(logits)[rows]
    yield "the tokens in reverse order", logits.flip(0)[rows]
    yield "logits of the experts in reverse order", logits.flip(1)[rows]
    yield "logits with the opposite sign", -logits[rows]
    flat = torch.nn.functional.pad(logits.flatten(), (0, 1), value=torch.nan)
    column = torch.arange(experts, device=logits.device)
    strides = {-(-experts // unit) * unit for unit in (2, 4, 8, 16, 32)}
    strides |= {1 << (experts - 1).bit_length()}
    for stride in sorted(strides - {experts}):
        at = (rows[:, None] * stride + column).clamp(max=count * experts)
        yield f"rows that are read {stride} logits apart, not {experts}", flat[at]
    transposed = logits.T.reshape(count, experts)
    yield "logits that are read as [experts, tokens], not [tokens, experts]", transposed[rows]


def _where(wrong: Tensor) -> str:
    numbers = torch.arange(len(wrong), device=wrong.device).double()
    return only_where([Fact(one="token", many="tokens", values=numbers)], wrong)
