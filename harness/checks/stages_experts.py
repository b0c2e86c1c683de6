"""Judge the stages inside the experts: products, activation, second quantization, weighted sum.

Each stage is recomputed from the member's recorded previous stage, with the reference's weights
and the member's declared numerics. A stage without a recorded input is judged by the output alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks import token_order
from harness.checks.stage_bound import (
    REACH,
    Expected,
    compare,
    not_finite,
    rounding,
)
from harness.checks.stages_combine import combine, router_weights, unsure_weights
from harness.fixtures.layer_call import chosen_rows
from moe.reference import formats
from moe.reference.error_propagation import FLOAT32_NOISE
from moe.reference.sum_noise import of_each_sum

if TYPE_CHECKING:
    from torch import Tensor

    from harness.checks.stage_record import Handed
    from harness.record.diagnosis import StageFinding

CHEAP = 2.0**25  # multiplications of both products up to which all rows are judged
_TINY = 2.0**-126  # the smallest normal float32: below, hardware may flush to zero


def check(handed: Handed, *, all_rows: bool = False) -> list[StageFinding]:
    """Return the wrong stages. all_rows: judge every row; else a sample unless all are cheap."""
    tokens = _weighed(handed, _sampled(handed, all_rows))
    flat = _by_expert(handed, tokens)
    departing: list[StageFinding | None] = []
    labels = _labels(handed, flat)
    if len(flat):
        products = _products(handed, flat)
        departing = [
            _compared("gemm1", handed, flat, products.get("gemm1"), labels),
            _activation(handed, flat, labels),
            *_second(handed, flat, labels),
            _compared("gemm2", handed, flat, products.get("gemm2"), labels),
            _compared("weighted", handed, flat, products.get("weighted"), labels),
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


def _products(handed: Handed, flat: Tensor) -> dict[str, Expected]:
    """Compute both products in one pass over the experts, to build their weights only once."""
    inputs = _inputs(handed, flat)
    numerics = handed.subject.reference.numerics
    parts: dict[str, list[Tensor]] = {name: [] for name in inputs}
    noise: dict[str, list[Tensor]] = {name: [] for name in inputs}
    experts, counts = torch.unique(handed.ids.flatten()[flat], return_counts=True)
    start = 0
    for e, count in zip(experts.tolist(), counts.tolist(), strict=True):
        rows = slice(start, start + count)
        start += count
        matrices = dict(zip(("gemm1", "gemm2"), _shard(handed, e), strict=True))
        biases = dict(zip(("gemm1", "gemm2"), _biases(handed, e), strict=True))
        for name in inputs:
            product = "gemm2" if name == "weighted" else name
            w, bias, x = matrices[product], biases[product], inputs[name][rows]
            total = _with_adapters(handed, e, product, x @ w.T, (x, flat[rows]))
            parts[name].append(total if bias is None else total + bias)
            noise[name].append(of_each_sum(x, w, numerics))
    return {
        n: _product(handed, n, (torch.cat(parts[n]), torch.cat(noise[n])), flat) for n in inputs
    }


def _inputs(handed: Handed, flat: Tensor) -> dict[str, Tensor]:
    """Return [r, C] float32, the input of each product recorded together with its output."""
    inputs: dict[str, Tensor | None] = {}
    reference = handed.subject.reference
    if handed.has("gemm1", "input") and reference.numerics.weight_on != "input":
        inputs["gemm1"] = handed.dequantized("input", flat // handed.top_k)
    for output in ("gemm2", "weighted"):
        if handed.has(output, "second"):
            inputs[output] = handed.dequantized("second", flat)
        elif handed.has(output, "activation") and reference.act_format.grid == "model":
            inputs[output] = handed.rows("activation", flat)
    return {name: x for name, x in inputs.items() if x is not None}


def _shard(handed: Handed, local: int) -> tuple[Tensor, Tensor]:
    """Return this rank's columns of an expert's reference w13 [2n, K] (or [n, K]) and w2 [K, n]."""
    expert = int(handed.global_ids(torch.tensor(local)))
    return _columns_of(handed, *handed.subject.reference.weights(expert))


def _columns_of(handed: Handed, w13: Tensor, w2: Tensor) -> tuple[Tensor, Tensor]:
    """Return this rank's columns of w13 [2N, K] (or [N, K]) and w2 [K, N]."""
    case = handed.subject.case
    columns = case.layout.intermediate_of(handed.rank, case.n)
    if len(columns) == case.n:
        return w13, w2
    part = slice(columns.start, columns.stop)
    return torch.cat([matrix[part] for matrix in torch.split(w13, case.n)]), w2[:, part]


def _with_adapters(
    handed: Handed, local: int, product: str, total: Tensor, of_rows: tuple[Tensor, Tensor]
) -> Tensor:
    """Return a product [r, O] of local expert `local` with what adapters add to it.

    of_rows: the rows' inputs [r, I] and their flat numbers [r].
    """
    truth = handed.subject.reference.adapters
    if truth is None or not handed.has("adapters"):
        return total
    x, flat = of_rows
    numbers = handed.stages["adapters"].value[flat // handed.top_k]
    expert = int(handed.global_ids(torch.tensor(local)))
    for number in torch.unique(numbers[numbers >= 0]).tolist():
        changes = _columns_of(handed, *truth.changes(number, expert, x.dtype))
        change = changes[0 if product == "gemm1" else 1]
        is_its = numbers == number
        total[is_its] += x[is_its] @ change.T
    return total


def _biases(handed: Handed, local: int) -> tuple[Tensor | None, Tensor | None]:
    """Return this rank's b13 [2n] (or [n]) and b2 [K] of an expert; None where it adds none."""
    case = handed.subject.case
    biases = handed.subject.reference.biases(int(handed.global_ids(torch.tensor(local))))
    if biases is None:
        return None, None
    columns = case.layout.intermediate_of(handed.rank, case.n)
    part = slice(columns.start, columns.stop)
    b13 = torch.cat([half[part] for half in torch.split(biases[0], case.n)])
    return b13, biases[1] if columns.start == 0 else None


def _product(handed: Handed, name: str, sums: tuple[Tensor, Tensor], flat: Tensor) -> Expected:
    """Return expected products. sums: [r, C] each, the sums and their standard deviations."""
    numerics, (value, sigma) = handed.subject.reference.numerics, sums
    tolerance = REACH * sigma
    places = {"gemm1": numerics.gemm1, "gemm2": numerics.expert, "weighted": numerics.weighted}
    if name == "weighted":
        weight = router_weights(handed, flat)[:, None]
        tolerance = tolerance * weight.abs() + unsure_weights(handed, flat)[:, None] * value.abs()
        value = value * weight
        if numerics.expert == "model":
            tolerance = tolerance + rounding(value.abs() + tolerance, handed.subject.case.dtype)
    if places[name] == "model":
        tolerance = tolerance + rounding(value.abs() + tolerance, handed.subject.case.dtype)
    return Expected(value=value, tolerance=tolerance)


def _activation(handed: Handed, flat: Tensor, labels: dict[str, Tensor]) -> StageFinding | None:
    """Compare activation(gate, up), computed in float32 and rounded as declared."""
    if not handed.has("gemm1", "activation"):
        return None
    numerics, dtype = handed.subject.reference.numerics, handed.subject.case.dtype
    value, tolerance = _activated(handed, handed.rows("gemm1", flat))
    tolerance = tolerance + _TINY + value.abs() * (numerics.activation_error or 0.0)
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
        return function.value * factor, 4 * function.noise * factor.abs()
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
