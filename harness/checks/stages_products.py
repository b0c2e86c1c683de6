"""Recompute both products of the experts from the rows that a member recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks.stage_bound import (
    REACH,
    Expected,
    rounding,
)
from harness.checks.stages_combine import router_weights, unsure_weights
from moe.reference.sum_noise import of_each_sum

if TYPE_CHECKING:
    from torch import Tensor

    from harness.checks.stage_record import Handed


def products(handed: Handed, flat: Tensor) -> dict[str, Expected]:
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


def block_terms(handed: Handed, name: str, flat: Tensor, block: int) -> Tensor | None:
    """Return [r, P, C], what each block of the inner dimension adds to a product in these rows.

    name: `gemm1`, `gemm2` or `weighted`. flat: [r]. None if the product's input is not recorded.
    """
    parts = operands(handed, name, flat)
    if not parts:
        return None
    pieces = [
        torch.einsum("rpi,cpi->rpc", _in_blocks(x, block), _in_blocks(w, block))
        for _, x, w in parts
    ]
    order = torch.cat([rows for rows, _, _ in parts])
    return torch.cat(pieces)[order.argsort()]


def operands(handed: Handed, name: str, flat: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return what a product multiplies, for each expert: rows [n] of `flat`, x [n, I] and w [C, I].

    name, flat: as of `block_terms`; x of `weighted` is multiplied by the router weight. Empty if
    the product's input is not recorded.
    """
    inputs = _inputs(handed, flat).get(name)
    if inputs is None:
        return []
    if name == "weighted":
        inputs = inputs * router_weights(handed, flat)[:, None]
    experts, number = handed.ids.flatten()[flat], 0 if name == "gemm1" else 1
    parts = []
    for e in torch.unique(experts).tolist():
        rows = (experts == e).nonzero().flatten()
        parts.append((rows, inputs[rows], _shard(handed, e)[number]))
    return parts


def adapter_terms(handed: Handed, name: str, flat: Tensor) -> Tensor | None:
    """Return [r, C], what adapters add to a product; None without any.

    name, flat: as of `block_terms`.
    """
    if handed.subject.reference.adapters is None or not handed.has("adapters"):
        return None
    product = "gemm2" if name == "weighted" else name
    parts = operands(handed, name, flat)
    if not parts:
        return None
    added = torch.zeros((len(flat), parts[0][2].shape[0]), device=flat.device)
    for rows, x, _ in parts:
        e = int(handed.ids.flatten()[flat[rows[0]]])
        added[rows] = _with_adapters(handed, e, product, added[rows], (x, flat[rows]))
    return added


def _in_blocks(matrix: Tensor, block: int) -> Tensor:
    """Return [R, C] as [R, blocks, block], with zeros after the last column."""
    missing = -matrix.shape[1] % block
    return torch.nn.functional.pad(matrix, (0, missing)).view(len(matrix), -1, block)


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


def input_rows(handed: Handed, name: str) -> tuple[Tensor, Tensor] | None:
    """Return codes and scales [S, I] float32 of all rows that a product may read; None if unknown.

    name: `gemm1`, whose S rows are the gathered ones; `gemm2` or `weighted`: the flat ones, NaN
    where none was computed. Values without a format have scales of 1.
    """
    reference = handed.subject.reference
    stage, count = ("input", len(handed.ids)) if name == "gemm1" else ("second", handed.ids.numel())
    if name == "gemm1" and reference.numerics.weight_on == "input":
        return None
    if name != "gemm1" and not handed.has("second") and reference.act_format.grid == "model":
        stage = "activation"
    if not handed.has(stage):
        return None
    every = torch.arange(count, device=handed.ids.device)
    codes = handed.rows(stage, every)
    if stage == "activation":
        return codes, torch.ones_like(codes)
    scale = handed.scales(stage, every, codes.shape[1])
    return None if scale is None else (codes, scale.broadcast_to(codes.shape))


def _shard(handed: Handed, local: int) -> tuple[Tensor, Tensor]:
    """Return this rank's columns of an expert's reference w13 [2n, K] (or [n, K]) and w2 [K, n]."""
    expert = int(handed.global_ids(torch.tensor(local)))
    return sharded(handed, *handed.subject.reference.weights(expert))


def sharded(handed: Handed, w13: Tensor, w2: Tensor) -> tuple[Tensor, Tensor]:
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
        changes = sharded(handed, *truth.changes(number, expert, x.dtype))
        change = changes[0 if product == "gemm1" else 1]
        is_its = numbers == number
        total[is_its] += x[is_its] @ change.T
    return total


def _biases(handed: Handed, local: int) -> tuple[Tensor | None, Tensor | None]:
    """Return this rank's b13 [2n] (or [n]) and b2 [K] of a local expert; None if it adds none."""
    return biases_of(handed, int(handed.global_ids(torch.tensor(local))))


def biases_of(handed: Handed, expert: int) -> tuple[Tensor | None, Tensor | None]:
    """Return this rank's b13 [2n] (or [n]) and b2 [K] of an expert; None where it adds none."""
    case = handed.subject.case
    biases = handed.subject.reference.biases(expert)
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
        if numerics.expert == "model":  # of the sum: it can be twice that of the product, in steps
            tolerance = tolerance + rounding(value.abs() + tolerance, handed.subject.case.dtype)
        weight = router_weights(handed, flat)[:, None]
        tolerance = tolerance * weight.abs() + unsure_weights(handed, flat)[:, None] * value.abs()
        value = value * weight
    if places[name] == "model":
        tolerance = tolerance + rounding(value.abs() + tolerance, handed.subject.case.dtype)
    return Expected(value=value, tolerance=tolerance)
