"""Find by which other scales, or by which rule, values were quantized, if their codes are wrong.

Tokens are known, and so are activations that were recorded: their codes by other scales can be
computed, which are rounded, of another size, of other rows or columns, or in another dtype.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from harness.checks.stages_collectives import SENT
from harness.diagnosis.stage_terms import handed_of
from harness.diagnosis.weight_readings import rules
from harness.record.diagnosis import NamedCause
from moe.reference.formats import activation_scale, group_amax, on_grid, scope_amax, step_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from harness.checks.stage_bound import WrongStage
    from harness.checks.stage_record import Handed
    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors
    from moe.formats.format import Format

NAME = "code_scales"
OF_TOKENS = ("input", "dispatch")  # stages of which the codes are those of tokens
FEWEST = 2  # wrong codes; fewer than ten must all be those that are predicted
AT_TIES = 0.1  # part of the wrong codes that another rounding of the ratio may explain
MOST_NAMED = 2


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield the scales that give all codes of the experts' input, or of the second product's."""
    wrong, errors = evidence.stage, evidence.errors
    if wrong is None or errors is None or errors.noun != "elements":
        return
    if errors.stage not in (*OF_TOKENS, "second"):
        return
    assert evidence.subject is not None, "a stage is read of a subject"
    fmt = evidence.subject.reference.act_format
    if fmt.block is None:
        return
    if errors.stage in OF_TOKENS:
        yield from _of_tokens(evidence, wrong, errors, fmt)
    elif handed_of(evidence).has("activation"):
        yield from _of_activations(handed_of(evidence), errors, fmt)


def _of_activations(handed: Handed, errors: StageErrors, fmt: Format) -> Iterator[NamedCause]:
    """Yield the scales that give the codes of the activations that were recorded.

    The recorded scales are right: those that are wrong are told before codes are.
    """
    h = handed.rows("activation", errors.numbers).float()
    own = handed.scales("second", errors.numbers, h.shape[1])
    if own is not None and h.shape == errors.actual.shape:
        rows = torch.arange(len(h), device=h.device)
        yield from code_scales(errors, h, rows, fmt, own.broadcast_to(h.shape))


def _of_tokens(
    evidence: Evidence, wrong: WrongStage, errors: StageErrors, fmt: Format
) -> Iterator[NamedCause]:
    """Yield the scales that give the codes of tokens, if these are quantized as they are."""
    case = evidence.scene.case
    if SENT not in wrong.labels or case.weights_input or case.latent:
        return
    if fmt.static:
        return
    at = torch.searchsorted(wrong.labels["rows"].sort().values, errors.numbers)
    order = wrong.labels["rows"].argsort()
    handed, tokens = handed_of(evidence), wrong.labels[SENT][order[at]]
    x = handed.sent.float()
    if fmt.spans_rows and len(handed.sizes) > 1:
        codes = of_each_rank(x, fmt, handed.sizes)
        if _fits(errors, codes[tokens], fmt) and int(errors.is_wrong.sum()) >= FEWEST:
            cause = f"{errors.place} the codes are those of a scale of each rank's tokens alone"
            yield NamedCause(name=NAME, cause=cause, residual=0.0)
            return
    yield from code_scales(errors, x, tokens, fmt)


def of_each_rank(x: Tensor, fmt: Format, sizes: Sequence[int]) -> Tensor:
    """Return the codes [S, K] by what the tokens of one rank share, as many as `sizes` says."""
    parts = [part for part in torch.split(x, list(sizes)) if len(part)]
    scales = [activation_scale(part, fmt, None).expand_as(part) for part in parts]
    return _codes(x / torch.cat(scales), fmt)


def code_scales(
    errors: StageErrors, x: Tensor, tokens: Tensor, fmt: Format, own: Tensor | None = None
) -> Iterator[NamedCause]:
    """Yield at most MOST_NAMED statements.

    x: [S, K], all tokens. tokens: [R], the rows' own. own: [S, K], the right scales; None: those
    that follow from each row of x.
    """
    if int(errors.is_wrong.sum()) < FEWEST or not bool(errors.actual.isfinite().all()):
        return
    own = activation_scale(x, fmt, None).expand_as(x) if own is None else own
    named = 0
    for text, codes in others(x, own, fmt):
        if named < MOST_NAMED and _fits(errors, codes[tokens], fmt):
            named += 1
            cause = f"{errors.place} the codes are those of {text}"
            yield NamedCause(name=NAME, cause=cause, residual=0.0)


def _fits(errors: StageErrors, codes: Tensor, fmt: Format) -> bool:
    """Tell whether the stage holds these codes [R, K], but for some at a tie."""
    off = errors.actual != codes
    step = step_of(torch.maximum(errors.actual.abs(), codes.abs()), fmt)
    is_near = ((errors.actual - codes).abs() <= 1.01 * step).all()
    few = int(off.sum()) <= AT_TIES * int(errors.is_wrong.sum())
    return few and bool(is_near)


def others(x: Tensor, own: Tensor, fmt: Format) -> Iterator[tuple[str, Tensor]]:
    """Yield other scales in words, and the codes [S, K] that they give. own: [S, K], the scales."""
    for text, scale in _scales(x, own, fmt):
        if scale is not None and bool((scale > 0).all()) and not torch.equal(scale, own):
            yield text, _codes(x / scale, fmt)
    for text, rule in rules().items():
        clamped = (x / own).clamp(fmt.lowest, fmt.top)
        step = torch.ones_like(clamped) if fmt.is_integer else step_of(clamped, fmt)
        yield f"a quotient by the scale that is {text}", rule(clamped / step) * step
    yield from _of_small_codes(x / own, fmt)
    for dtype in ("bf16", "fp16"):
        ratio = on_grid(x / own, dtype)
        yield f"a quotient by the scale that is rounded to {dtype}", _codes(ratio, fmt)
        both = on_grid(x / on_grid(own, dtype), dtype)
        text = f"a quotient that is rounded to {dtype}, by scales that are"
        yield text, _codes(both, fmt)


def _of_small_codes(ratio: Tensor, fmt: Format) -> Iterator[tuple[str, Tensor]]:
    """Yield codes [S, K] of which the smallest are rounded otherwise, if codes are of floats."""
    if fmt.is_integer:
        return
    clamped = ratio.clamp(fmt.lowest, fmt.top)
    least = float(step_of(torch.zeros(1), fmt))
    step = step_of(clamped, fmt).clamp(min=2 * least)
    yield f"steps of at least {2 * least:g}, not of {least:g}", (clamped / step).round() * step
    sizes = [least * 2.0**power for power in range(int(1 - math.log2(least)))]
    normal = max(size for size in sizes if float(step_of(torch.tensor([size]), fmt)) == least)
    codes = _codes(ratio, fmt)
    text = f"values that are 0 below {normal:g}, the smallest normal number"
    yield text, torch.where(codes.abs() < normal, 0.0, codes)


def _codes(ratio: Tensor, fmt: Format) -> Tensor:
    return on_grid(ratio.clamp(fmt.lowest, fmt.top), fmt)


def _scales(x: Tensor, own: Tensor, fmt: Format) -> Iterator[tuple[str, Tensor | None]]:
    if fmt.scale_dtype == "f32":
        for dtype in ("bf16", "fp16"):
            yield f"scales that are rounded to {dtype}", on_grid(own, dtype)
        yield "scales that are rounded up to powers of two", 2.0 ** own.log2().ceil()
        yield "scales that are rounded down to powers of two", 2.0 ** own.log2().floor()
        for other in sorted({fmt.top + 1, fmt.top - 1, fmt.top + 0.5, 448.0, 240.0, 224.0}):
            text = f"scales by which the largest value is {other:g}, not {fmt.top:g}"
            yield text, own * (fmt.top / other)
    else:
        exact = scope_amax(x, fmt) / (fmt.scale_top or fmt.top)
        text = f"scales that are not rounded to {fmt.scale_dtype} before codes are made"
        yield text, torch.where(exact > 0, exact, own).broadcast_to(own.shape)
    for power in (2.0, 0.5, 4.0, 0.25):
        yield f"scales that are {power:g} times as large", own * power
    yield "the scales of the row before each", own.roll(1, 0)
    yield "the scales of the row after each", own.roll(-1, 0)
    yield "the scales of the first row", own[:1].expand_as(own)
    yield "one scale for all rows", own.amax(dim=0, keepdim=True).expand_as(own)
    yield from _of_columns(x, own, fmt)


def _of_columns(x: Tensor, own: Tensor, fmt: Format) -> Iterator[tuple[str, Tensor | None]]:
    """Yield the scales of other columns, or of a part of the columns."""
    group, width = fmt.group, x.shape[1]
    if group is not None and group < width:
        yield "the scales of the group of columns before each", own.roll(group, 1)
        yield "the scales of the group of columns after each", own.roll(-group, 1)
        yield "one scale for each row", own.amax(dim=1, keepdim=True).expand_as(own)
    size = width if group is None else group
    full = group_amax(x, size).clamp(min=1e-30)
    for text, part in (
        ("the even columns", x * (torch.arange(width, device=x.device) % 2 == 0)),
        ("the odd columns", x * (torch.arange(width, device=x.device) % 2 == 1)),
        ("values that are positive", x.clamp(min=0)),
    ):
        ratio = (group_amax(part, size) / full).repeat_interleave(size, dim=1)[:, :width]
        is_exact = fmt.scale_dtype == "f32"
        yield f"scales that only {text} decide", own * ratio if is_exact else None
