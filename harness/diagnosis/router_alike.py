"""Find out whether all slots have one weight: many formulas give that, and none is told by it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.diagnosis.router_weights import is_close, routed_of
from harness.record.diagnosis import NamedCause

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.router_formulas import Routed

NAME = "router_alike"
FEWEST = 2  # wrong tokens
REACH = 1.0  # times the noise of a float32 weight: equal scores give equal bits, but for a sum's


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield that all slots of the wrong tokens have one weight, where they should not."""
    routed, weights = routed_of(evidence)
    cause = None if routed is None or weights is None else router_alike(routed, weights)
    if cause is not None:
        yield cause


def router_alike(routed: Routed, weights: Tensor) -> NamedCause | None:
    """Return the cause, or None. weights: [T, k] of the ids that were chosen."""
    limits = routed.truth.limits(routed.logits, routed.ids)
    wrong = limits.exclude(weights).any(dim=1)
    if weights.shape[1] < 2 or int(wrong.sum()) < FEWEST or not bool(weights.isfinite().all()):
        return None
    held, right = weights[wrong], limits.middle[wrong]
    one = held[:1, :1].expand_as(held)
    if not bool(is_close(held, one, REACH).all()):
        return None
    if bool(is_close(right, right[:, :1].expand_as(right), REACH).any()):
        return None
    which = "all slots" if bool(wrong.all()) else "all slots of the wrong tokens"
    value = f"{which} have the same weight, {float(held[0, 0]):.3g}"
    cause = f"in the router {value}: their scores are equal, or are not used"
    return NamedCause(name=NAME, cause=cause, residual=0.0)
