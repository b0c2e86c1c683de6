"""The stages inside the experts: both products, activation, second quantization, weighted sum.

Each is worked out from what the member itself handed out just before, with the reference's own
weights and the member's declared numerics. A stage whose input nobody handed out is left to the
comparison of the output.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks import token_order
from harness.checks.stage_bound import (
    REACH,
    Right,
    StageFinding,
    compare,
    not_finite,
    rounding,
)
from harness.fixtures.layer_call import chosen_rows
from moe.reference import formats
from moe.reference.error_propagation import FLOAT32_NOISE, of_each_sum

if TYPE_CHECKING:
    from torch import Tensor

    from harness.checks.stage_record import Handed

CHEAP = 2.0**25  # multiplications of both products below which all rows are looked at
_TINY = 2.0**-126  # the smallest normal float32: below, hardware may flush to zero


def check(handed: Handed, *, every: bool = False) -> list[StageFinding]:
    """every: all rows; else all where that is cheap, and a spread sample where it is not."""
    tokens = _sampled(handed, every)
    flat = _by_expert(handed, tokens)
    found: list[StageFinding | None] = []
    labels = _labels(handed, flat)
    if len(flat):
        products = _products(handed, flat)
        found = [
            _compared("gemm1", handed, flat, products.get("gemm1"), labels),
            _activation(handed, flat, labels),
            *_second(handed, flat, labels),
            _compared("gemm2", handed, flat, products.get("gemm2"), labels),
        ]
    found.append(_combine(handed, tokens))
    findings = [finding for finding in found if finding is not None]
    return findings or _not_finite(handed, tokens, flat, labels)


def _not_finite(
    handed: Handed, tokens: Tensor, flat: Tensor, labels: dict[str, Tensor]
) -> list[StageFinding]:
    """The first stage with NaN or Inf, where the sum has some and no stage could be blamed."""
    if not handed.has("combine"):
        return []
    total = handed.stages["combine"].value[tokens]
    if bool(total.isfinite().all()):
        return []
    for stage in ("gemm1", "activation", "second", "gemm2"):
        if handed.has(stage):
            finding = not_finite(stage, handed.rows(stage, flat), labels)
            if finding is not None:
                return [finding]
    finding = not_finite("combine", total, {"rows": tokens})
    return [] if finding is None else [finding]


def _sampled(handed: Handed, every: bool) -> Tensor:
    """[s] gathered rows to look at: real ones, where it is known which those are."""
    real = token_order.by_rows(handed) if sum(handed.sizes) else None
    if real is None:
        real = (handed.ids >= 0).any(dim=1).nonzero().flatten()
    problem = handed.subject.case.problem
    columns = max(problem.shard_sizes)
    if every or len(real) * handed.top_k * problem.hidden * columns * 3 <= CHEAP:
        return real
    return real[chosen_rows(len(real), real.device)]


def _by_expert(handed: Handed, tokens: Tensor) -> Tensor:
    """[r] flat rows of these tokens whose expert is here, one expert after the other."""
    slots = torch.arange(handed.top_k, device=tokens.device)
    flat = (tokens[:, None] * handed.top_k + slots).flatten()
    ids = handed.ids.flatten()[flat]
    flat, ids = flat[ids >= 0], ids[ids >= 0]
    return flat[ids.argsort(stable=True)]


def _labels(handed: Handed, flat: Tensor) -> dict[str, Tensor]:
    experts = handed.global_ids(handed.ids.flatten()[flat])
    return {"rows": flat, "experts": experts, "tokens": flat // handed.top_k}


def _compared(
    stage: str, handed: Handed, flat: Tensor, right: Right | None, labels: dict[str, Tensor]
) -> StageFinding | None:
    if right is None:
        return None
    if handed.exact:
        right = Right(value=right.value, noise=torch.zeros_like(right.value))
    return compare(stage, handed.rows(stage, flat), right, labels)


def _products(handed: Handed, flat: Tensor) -> dict[str, Right]:
    """Both products in one pass over the experts, as each one's weights are made only once."""
    inputs = _inputs(handed, flat)
    numerics = handed.subject.reference.numerics
    parts: dict[str, list[Tensor]] = {name: [] for name in inputs}
    noise: dict[str, list[Tensor]] = {name: [] for name in inputs}
    experts, counts = torch.unique(handed.ids.flatten()[flat], return_counts=True)
    start = 0
    for e, count in zip(experts.tolist(), counts.tolist(), strict=True):
        rows = slice(start, start + count)
        start += count
        for name, w in zip(("gemm1", "gemm2"), _shard(handed, e), strict=True):
            if name in inputs:
                x = inputs[name][rows]
                parts[name].append(x @ w.T)
                noise[name].append(of_each_sum(x, w, numerics))
    return {n: _product(handed, n, torch.cat(parts[n]), torch.cat(noise[n])) for n in inputs}


def _inputs(handed: Handed, flat: Tensor) -> dict[str, Tensor]:
    """[r, C] float32 what each product was given, where both are handed out."""
    given: dict[str, Tensor | None] = {}
    if handed.has("gemm1", "input"):
        given["gemm1"] = handed.dequantized("input", flat // handed.top_k)
    if handed.has("gemm2", "second"):
        given["gemm2"] = handed.dequantized("second", flat)
    elif handed.has("gemm2", "activation") and handed.subject.reference.act_format.grid == "model":
        given["gemm2"] = handed.rows("activation", flat)
    return {name: x for name, x in given.items() if x is not None}


def _shard(handed: Handed, local: int) -> tuple[Tensor, Tensor]:
    """This rank's columns of an expert's true w13 [2n, K] and w2 [K, n]."""
    case = handed.subject.case
    expert = int(handed.global_ids(torch.tensor(local)))
    w13, w2 = handed.subject.reference.weights(expert)
    columns = case.layout.intermediate_of(handed.rank, case.n)
    if len(columns) == case.n:
        return w13, w2
    gate, up = w13[: case.n], w13[case.n :]
    part = slice(columns.start, columns.stop)
    return torch.cat([gate[part], up[part]]), w2[:, part]


def _product(handed: Handed, name: str, value: Tensor, sigma: Tensor) -> Right:
    """value, sigma: [r, C] the sums and the standard deviation of each."""
    numerics, noise = handed.subject.reference.numerics, REACH * sigma
    rounded = numerics.gemm1 if name == "gemm1" else numerics.expert
    if rounded == "model":
        noise = noise + rounding(value.abs() + noise, handed.subject.case.dtype)
    return Right(value=value, noise=noise)


def _activation(handed: Handed, flat: Tensor, labels: dict[str, Tensor]) -> StageFinding | None:
    """activation(gate, up) in float32, rounded as declared."""
    if not handed.has("gemm1", "activation"):
        return None
    gate, up = handed.rows("gemm1", flat).chunk(2, dim=1)
    right = handed.subject.reference.activation(gate, up)
    value, noise = right.value, 4 * right.noise + _TINY
    if handed.subject.reference.numerics.activation == "model":
        noise = noise + rounding(value.abs() + noise, handed.subject.case.dtype)
    return _compared("activation", handed, flat, Right(value=value, noise=noise), labels)


def _second(handed: Handed, flat: Tensor, labels: dict[str, Tensor]) -> list[StageFinding | None]:
    """Scales first; then the codes under the member's own scales, free only at a tie."""
    if not handed.has("activation", "second"):
        return []
    fmt, h = handed.subject.reference.act_format, handed.rows("activation", flat)
    if fmt.grid == "model":
        return [_compared("second", handed, flat, Right(value=h, noise=h.new_zeros(1)), labels)]
    scale = handed.scales("second", flat, h.shape[1])
    if scale is None:
        return []
    expected = _second_scale(handed, h)
    wide = expected.broadcast_to(h.shape) if expected.ndim < 2 else expected
    right = Right(value=wide, noise=wide * (0.0 if handed.exact else FLOAT32_NOISE))
    found = compare("second", scale.broadcast_to(wide.shape), right, labels, what="scales")
    if found is not None:
        return [found]
    ratio = (h / scale).clamp(-fmt.top, fmt.top)
    codes = formats.on_grid(ratio, fmt)
    step = formats.step_of(ratio, fmt)
    tie = formats.tie_of(ratio, codes, fmt)
    free = torch.where(tie <= ratio.abs() * 2.0**-22, step, 0.0)  # within two float32 steps
    return [_compared("second", handed, flat, Right(value=codes, noise=free), labels)]


def _second_scale(handed: Handed, h: Tensor) -> Tensor:
    """[r, n] or broadcastable to it; one over all rows in use, where one serves all."""
    fmt = handed.subject.reference.act_format
    if fmt.has_one_scale and not fmt.static:
        used = (handed.ids.flatten() >= 0).nonzero().flatten()
        h = handed.rows("activation", used)
    return formats.activation_scale(h, fmt, handed.subject.scales["a2_scale"])


def _combine(handed: Handed, tokens: Tensor) -> StageFinding | None:
    """The weighted sum over slots; a real token without an expert here comes out as zeros."""
    if not handed.has("gemm2"):
        tokens = tokens[(handed.ids[tokens] < 0).all(dim=1)]  # which must be zeros
    if len(tokens) == 0 or not handed.has("combine", "weights"):
        return None
    numerics, dtype = handed.subject.reference.numerics, handed.subject.case.dtype
    terms = _weighted(handed, tokens)
    value, size = terms.sum(dim=1), terms.abs().sum(dim=1)
    times = handed.top_k if numerics.combine == "model" else 1
    noise = size * (handed.top_k * 2.0**-23) + rounding(
        size if times > 1 else value.abs(), dtype, times
    )
    if handed.exact:
        noise = torch.zeros_like(noise)
    actual = handed.stages["combine"].value[tokens]
    return compare("combine", actual, Right(value=value, noise=noise), {"rows": tokens})


def _weighted(handed: Handed, tokens: Tensor) -> Tensor:
    """[s, k, K] float32 router weight times expert output, zeros for experts elsewhere."""
    ids = handed.ids[tokens]
    hidden = handed.stages["combine"].value.shape[1]
    terms = torch.zeros((*ids.shape, hidden), device=ids.device)
    rows, slots = (ids >= 0).nonzero(as_tuple=True)
    if len(rows):
        y = handed.rows("gemm2", tokens[rows] * handed.top_k + slots)
        weight = handed.stages["weights"].value[tokens[rows], slots].float()
        terms[rows, slots] = weight[:, None] * y
    return terms
