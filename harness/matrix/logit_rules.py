"""Refuse distributions of router logits under which a case could not be judged. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.matrix.case import MADE
from harness.matrix.exactness import PERIOD, has_whole_periods
from moe.formats import FORMATS
from moe.layers import COMPOSED
from moe.quant import QUANT
from moe.routers import ROUTERS
from moe.spec import MONOLITHIC, Reason

if TYPE_CHECKING:
    from harness.matrix.case import MoETestConfig
    from moe.spec import MemberSpec

# With a bias or groups the logits lie in a narrow band, see harness.fixtures.logit_rows.
WITH_OPTIONS = ("spread", "uniform", "skewed", "ties", "nan")
# Hidden columns carry these without harm, and hidden choices are certain.
WITH_GATE = ("spread", "uniform", "skewed", "hot", "empty", "negative", "first", "last")


def logits_reason(case: MoETestConfig) -> Reason | None:
    """Return why the case's distribution of logits is refused, or None."""
    if case.exact and case.gate:
        rule = "exact inputs do not carry router logits; leave `exact` or `gate` out"
        return Reason(code="exact_unsupported", text=rule)
    if case.exact and not _has_scales_of_rows(case) and not has_whole_periods(case):
        rule = f"of a rank's intermediate columns every {PERIOD}th is the largest"
        rule = f"exact mode: {rule}, and n:{case.n} is not a multiple of them on every rank"
        return Reason(code="exact_unsupported", text=rule)
    text = None if case.logits == "spread" else _text(case)
    if text is None:
        return None
    return Reason(code="logits_unsupported", text=f"logits:{case.logits}: {text}")


def _has_scales_of_rows(case: MoETestConfig) -> bool:
    """Return whether each row of both operands has a scale of its own, and so a small error.

    One scale of all weights besides the scales of tokens leaves tolerances wider than some rows.
    """
    scheme = QUANT.row(case.quant).scheme
    by_token = FORMATS[scheme.activations].block == (1, None)
    return by_token and FORMATS[scheme.weights].block != (None, None)


def hidden_choice(case: MoETestConfig, row: MemberSpec) -> Reason | None:
    """Return why an experts backend that hides its choice is not given these logits, or None."""
    if row.kind != MONOLITHIC or case.logits in WITH_GATE:
        return None
    text = f"{row.name} hides its choice, and logits:{case.logits} leave it in doubt"
    return Reason(code="logits_unsupported", text=text)


def recorded_inputs(case: MoETestConfig) -> Reason | None:
    """Return why a recorded workload does not go with the other inputs of the case, or None."""
    if case.trace == MADE:
        return None
    makers = {"exact": case.exact, "logits": case.logits != "spread", "zero": case.zero_experts > 0}
    for word, is_made in makers.items():
        if is_made:
            text = f"trace:{case.trace} has recorded inputs and no others; leave `{word}` out"
            return Reason(code="trace_unsupported", text=text)
    return None


def unjudged_choice(case: MoETestConfig) -> Reason | None:
    """Return why a router without a reference cannot serve the case, or None."""
    if ":" not in case.router or ROUTERS.row(case.router).is_judged:
        return None
    hidden = case.layer != COMPOSED
    if not (hidden or case.exact or _spans_rows(case.quant)):
        return None
    text = (
        f"{case.router} is a function whose choice nobody else knows: no exact mode, no scale over "
        "the tokens of all ranks and no layer of its own; give it a `row` with a truth"
    )
    return Reason(code="router_unjudged", text=text)


def _text(case: MoETestConfig) -> str | None:
    is_limited = case.chosen_groups < case.router_groups
    if (case.router_bias or is_limited) and case.logits not in WITH_OPTIONS:
        return f"with a bias or groups there are only {', '.join(WITH_OPTIONS)}"
    if (case.gate or case.layer != COMPOSED) and case.logits not in WITH_GATE:
        return (
            f"a layer that computes or hides its routing is judged with {', '.join(WITH_GATE)} only"
        )
    if case.logits in ("nan", "ties") and _spans_rows(case.quant):
        return "a scale that all tokens share would depend on what a NaN row or a tie chooses"
    if case.logits == "nan" and case.shared_experts and _spans_rows(case.shared_quant):
        return f"the shared experts' scale ({case.shared_quant}) would depend on the NaN rows"
    if case.logits == "large" and _has_weights_of_one(case):
        return f"every weight of {case.router} is 1, so that one left out would not show"
    if case.logits == "large" and case.shared_experts and _has_growing_weights(case):
        return f"weights of {case.router} grow with the logits, and hide the shared experts"
    return None


def _has_growing_weights(case: MoETestConfig) -> bool:
    """Return whether weights have no bound: nothing divides them, and no score is the largest."""
    row = ROUTERS.row(case.router)
    return not (case.renormalize or row.sums_to_one or row.saturated_at is not None)


def _has_weights_of_one(case: MoETestConfig) -> bool:
    """Return whether weights of large logits are 1: scores are, and nothing divides or scales them.

    Or they are divided by their sum, top-k, and multiplied by as much. A router whose scores sum to
    one gives one of them all, and so to the only one that is chosen.
    """
    row = ROUTERS.row(case.router)
    if case.renormalize:
        return row.saturated_at is not None and case.router_scale == case.top_k > 1
    if case.router_scale != 1.0:
        return False
    is_all_of_one = row.sums_to_one and not row.always_renormalizes and case.top_k == 1
    return row.saturated_at is not None or is_all_of_one


def _spans_rows(quant: str) -> bool:
    """Return whether the method has one dynamic scale of activations for all tokens of a call."""
    return FORMATS[QUANT.row(quant).scheme.activations].spans_rows
