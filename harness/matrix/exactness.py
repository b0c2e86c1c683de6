"""Decide which cases of exact mode are compared bit for bit. No torch.

`fixtures/exact_tensors.py` makes the inputs of exact mode.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from moe.activations import ACTIVATIONS
from moe.formats import FORMATS
from moe.quant import QUANT
from moe.routers import ROUTERS
from moe.spec import BLOCK, Reason

if TYPE_CHECKING:
    from harness.matrix.case import MoETestConfig
    from moe.formats.format import Format
    from moe.spec import Scheme

    Block = tuple[int | None, int | None] | None

_WEIGHT_BLOCKS: tuple[Block, ...] = (None, (None, None), (1, None), (BLOCK, BLOCK))
_ACTIVATION_BLOCKS: tuple[Block, ...] = (None, (None, None), (1, None))
_NARROW = 16.0  # codes up to here are too few for products of sums of four terms
SMALLEST_GATE = 32.0  # smallest gate value that is not 0
PERIOD = 8  # distance of intermediate columns with the largest values, so that shards have some
GROUPS = 16  # divides the groups of columns that have inputs


def has_plain_choice(case: MoETestConfig) -> bool:
    """Return whether the order of logits, spread as usual, decides which experts are chosen."""
    limited = case.chosen_groups < case.router_groups
    return case.logits == "spread" and not case.router_bias and not limited


def has_whole_periods(case: MoETestConfig) -> bool:
    """Return whether each rank's intermediate columns, where they are quantized, suit the inputs.

    Otherwise their scales are no powers of two, and nothing can be said of outputs that are sums of
    few large terms: neither bits nor a useful tolerance.
    """
    if FORMATS[QUANT.row(case.quant).scheme.activations].grid == "model":
        return True
    return case.n % (PERIOD * case.layout.size("moe_tp")) == 0


def is_bitwise(case: MoETestConfig) -> bool:
    """Return whether the outputs of this case are compared bit for bit."""
    identity = ACTIVATIONS.row(case.activation).identity_from
    router = ROUTERS.row(case.router)
    sums = case.top_k * (2 if case.shared_experts else 1)
    return (
        case.exact
        and has_plain_choice(case)
        and math.frexp(case.router_scale)[0] == 0.5  # a power of two
        and exact_refusal(case.layer_spec.scheme) is None
        and (router.sums_to_one or (case.renormalize and router.saturated_at is not None))
        and identity is not None
        and identity <= SMALLEST_GATE
        and case.top_k in (1, 2, 4, 8)
        and sums <= (2 if case.expert_bias else 8)  # biases make sums that much larger
        and not (case.expert_bias and is_narrow(FORMATS[case.layer_spec.scheme.activations]))
        and case.shared_experts <= 1
        and _has_exact_shared(case)
        and case.zero_experts == 0
        and min(case.n, case.k, case.expert_case.k) >= 2 * PERIOD
        and (case.latent == 0 or _has_exact_projections(case))
        and has_whole_periods(case)
        and (has_own_up_scales(case) or not FORMATS[case.layer_spec.scheme.weights].is_integer)
    )


def _has_exact_projections(case: MoETestConfig) -> bool:
    """Return whether each latent column can be a hidden column of its own, and hold no logit."""
    narrow = is_narrow(FORMATS[case.layer_spec.scheme.activations])  # whose first column is special
    return case.latent <= case.k and not case.gate and not narrow


def _has_exact_shared(case: MoETestConfig) -> bool:
    """Return whether the shared experts' inputs suit them: made for the routed experts' formats."""
    if case.shared_quant == "none":
        return case.shared_width == 0 or case.shared_width >= 2 * PERIOD
    eights = case.layer_spec.shared_columns % (PERIOD * case.tp_size) == 0
    return case.shared_quant == case.quant and eights


def has_own_up_scales(case: MoETestConfig) -> bool:
    """Return whether no scale of w13 is shared by gate and up, so that up's can be smaller."""
    return FORMATS[case.layer_spec.scheme.weights].splits(case.n)


def is_narrow(fmt: Format) -> bool:
    """Return whether the codes of a format are so few that the inputs have fewer terms."""
    return fmt.grid != "model" and fmt.top <= _NARROW


def has_groups(fmt: Format) -> bool:
    """Return whether groups of a row's columns share a scale, and the inputs suit their length."""
    return fmt.group is not None and fmt.group % GROUPS == 0


def exact_refusal(scheme: Scheme) -> Reason | None:
    """Return why exact mode does not support these formats, or None if it does."""
    for name, blocks in (
        (scheme.weights, _WEIGHT_BLOCKS),
        (scheme.activations, _ACTIVATION_BLOCKS),
    ):
        text = _inexact(FORMATS[name], blocks)
        if text is not None:
            return Reason(code="exact_unsupported", text=f"exact mode: {text}")
    return None


def _inexact(fmt: Format, blocks: tuple[Block, ...]) -> str | None:
    if not fmt.exact_scale:
        return f"format {fmt.name} does not promise exact scales (exact_scale in its row)"
    if fmt.block not in blocks and not has_groups(fmt):
        return f"no inputs exist for scales of format {fmt.name}, which has blocks of {fmt.block}"
    return None
