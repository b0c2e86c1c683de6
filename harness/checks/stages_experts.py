"""Judge the stages inside the experts: products, activation, second quantization, weighted sum.

Each stage is recomputed from the member's recorded previous stage, with the reference's weights
and the member's declared numerics. A stage without a recorded input is judged by the output alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks import token_order
from harness.checks.stage_bound import (
    Expected,
    compare,
    not_finite,
    rounding,
)
from harness.checks.stages_combine import combine, router_weights
from harness.checks.stages_products import products
from harness.fixtures.layer_call import chosen_rows
from moe.activations.base import SMALLEST_NORMAL
from moe.reference import formats
from moe.reference.error_propagation import FLOAT32_NOISE

if TYPE_CHECKING:
    from torch import Tensor

    from harness.checks.stage_record import Handed
    from harness.record.diagnosis import StageFinding

CHEAP = 2.0**25  # multiplications of both products up to which all rows are judged


def check(handed: Handed, *, all_rows: bool = False) -> list[StageFinding]:
    """Return the wrong stages. all_rows: judge every row; else a sample unless all are cheap."""
    tokens = _weighed(handed, _sampled(handed, all_rows))
    flat = _by_expert(handed, tokens)
    departing: list[StageFinding | None] = []
    labels = _labels(handed, flat)
    if len(flat):
        expected = products(handed, flat)
        departing = [
            _compared("gemm1", handed, flat, expected.get("gemm1"), labels),
            _activation(handed, flat, labels),
            *_second(handed, flat, labels),
            _compared("gemm2", handed, flat, expected.get("gemm2"), labels),
            _compared("weighted", handed, flat, expected.get("weighted"), labels),
        ]
    departing.append(combine(handed, tokens))
    findings = [finding for finding in departing if finding is not None]
    return findings or _not_finite(handed, tokens, flat, labels)


def _weighed(handed: Handed, tokens: Tensor) -> Tensor:
    """Return the gathered rows whose router weights are numbers: those of NaN logits are not."""
    if handed.subject.case.logits != "nan" or not handed.has("weights"):
        return tokens
    weights = handed.stages["weights"].value[tokens].float()
    return tokens[~weights.isnan().any(dim=1)]


def _not_finite(
    handed: Handed, tokens: Tensor, flat: Tensor, labels: dict[str, Tensor]
) -> list[StageFinding]:
    """Return the first stage with NaN or Inf, if the sum has some and no other stage was wrong."""
    if not handed.has("combine"):
        return []
    total = handed.stages["combine"].value[tokens]
    if bool(total.isfinite().all()):
        return []
    for stage in ("gemm1", "activation", "second", "gemm2", "weighted"):
        if handed.has(stage):
            finding = not_finite(stage, handed.rows(stage, flat), labels)
            if finding is not None:
                return [finding]
    finding = not_finite("combine", total, {"rows": tokens})
    return [] if finding is None else [finding]


def _sampled(handed: Handed, all_rows: bool) -> Tensor:
    """Return [s], the gathered rows to judge, without padding if the order of rows is known."""
    real = token_order.by_rows(handed) if sum(handed.sizes) else None
    if real is None:
        real = (handed.ids >= 0).any(dim=1).nonzero().flatten()
    layer_spec = handed.subject.case.layer_spec
    columns = max(layer_spec.shard_sizes)
    if all_rows or len(real) * handed.top_k * layer_spec.expert_hidden * columns * 3 <= CHEAP:
        return real
    return real[chosen_rows(len(real), real.device)]


def _by_expert(handed: Handed, tokens: Tensor) -> Tensor:
    """Return [r], the flat rows of these tokens with an expert of this rank, sorted by expert."""
    slots = torch.arange(handed.top_k, device=tokens.device)
    flat = (tokens[:, None] * handed.top_k + slots).flatten()
    ids = handed.ids.flatten()[flat]
    flat, ids = flat[ids >= 0], ids[ids >= 0]
    return flat[ids.argsort(stable=True)]


def _labels(handed: Handed, flat: Tensor) -> dict[str, Tensor]:
    experts = handed.global_ids(handed.ids.flatten()[flat])
    return {"rows": flat, "experts": experts, "tokens": flat // handed.top_k}


def _compared(
    stage: str, handed: Handed, flat: Tensor, expected: Expected | None, labels: dict[str, Tensor]
) -> StageFinding | None:
    if expected is None:
        return None
    if handed.exact:
        expected = Expected(value=expected.value, tolerance=torch.zeros_like(expected.value))
    return compare(stage, handed.rows(stage, flat), expected, labels)


def _activation(handed: Handed, flat: Tensor, labels: dict[str, Tensor]) -> StageFinding | None:
    """Compare activation(gate, up), computed in float32 and rounded as declared."""
    if not handed.has("gemm1", "activation"):
        return None
    numerics, dtype = handed.subject.reference.numerics, handed.subject.case.dtype
    value, tolerance = _activated(handed, handed.rows("gemm1", flat))
    tolerance = tolerance + SMALLEST_NORMAL + value.abs() * (numerics.activation_error or 0.0)
    if numerics.activation == "model":
        tolerance = tolerance + rounding(value.abs() + tolerance, dtype)
    if numerics.weight_on == "intermediate":
        weight = router_weights(handed, flat)[:, None]
        value, tolerance = value * weight, tolerance * weight.abs()
        if numerics.weighted == "model":
            tolerance = tolerance + rounding(value.abs() + tolerance, dtype)
    return _compared("activation", handed, flat, Expected(value=value, tolerance=tolerance), labels)


def _activated(handed: Handed, product: Tensor) -> tuple[Tensor, Tensor]:
    """Return the activation [r, n] of the first product and the tolerance of float32 code.

    Where f(gate) is rounded, noise may move it across a tie: by a step, or by the noise itself
    where it exceeds the step, as that of 1 + tanh(t) does near 0.
    """
    reference, dtype = handed.subject.reference, handed.subject.case.dtype
    gate, up = reference.activation.split(product)
    function = reference.activation.of_gate(gate)
    if up is None:
        return function.value, 4 * function.noise
    factor = reference.activation.of_up(up).value
    if reference.numerics.activated_gate != "model" or dtype == "f32":
        return function.value * factor, (4 * function.noise + SMALLEST_NORMAL) * factor.abs()
    f = formats.on_grid(function.value, dtype)
    tie, noise = formats.tie_of(function.value, f, dtype), 4 * function.noise
    jump = torch.where(tie <= noise, formats.step_of(f, dtype) + noise, 0.0)
    value = f * factor
    return value, jump * factor.abs() + value.abs() * FLOAT32_NOISE


def _second(handed: Handed, flat: Tensor, labels: dict[str, Tensor]) -> list[StageFinding | None]:
    """Compare the scales, then the codes under the member's scales: exact except at a tie."""
    if not handed.has("activation", "second"):
        return []
    fmt, h = handed.subject.reference.act_format, handed.rows("activation", flat)
    if fmt.grid == "model":
        return [
            _compared("second", handed, flat, Expected(value=h, tolerance=h.new_zeros(1)), labels)
        ]
    scale = handed.scales("second", flat, h.shape[1])
    if scale is None:
        return []
    expected = _second_scale(handed, h)
    expected_scale = expected.broadcast_to(h.shape) if expected.ndim < 2 else expected
    scales = Expected(
        value=expected_scale, tolerance=expected_scale * (0.0 if handed.exact else FLOAT32_NOISE)
    )
    finding = compare(
        "second", scale.broadcast_to(expected_scale.shape), scales, labels, noun="scales"
    )
    if finding is not None:
        return [finding]
    ratio = (h / scale).clamp(-fmt.top, fmt.top)
    codes = formats.on_grid(ratio, fmt)
    step = formats.step_of(ratio, fmt)
    tie = formats.tie_of(ratio, codes, fmt)
    tolerance = torch.where(tie <= ratio.abs() * 2.0**-22, step, 0.0)  # within two float32 steps
    return [_compared("second", handed, flat, Expected(value=codes, tolerance=tolerance), labels)]


def _second_scale(handed: Handed, h: Tensor) -> Tensor:
    """Return the scales, broadcastable to [r, n]; a dynamic per-tensor one spans all used rows."""
    fmt, numerics = handed.subject.reference.act_format, handed.subject.reference.numerics
    shared = handed.subject.scales["a2_scale"]
    if fmt.spans_rows:
        used = (handed.ids.flatten() >= 0).nonzero().flatten()
        of_call = handed.rows("activation", used)
        shared = formats.tensor_scale(formats.tensor_amax(of_call), fmt, numerics)
        if fmt.has_one_scale:
            return shared
    return formats.activation_scale(h, fmt, shared, numerics)
