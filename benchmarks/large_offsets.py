"""Check each Triton kernel on buffers of more than 2**31 elements, whose offsets need 64 bits.

    python benchmarks/large_offsets.py

on a GPU with 80 GB. Buffers are allocated and mostly left as they are: only a few rows at the start
and at the end hold values, and only these are compared with the same rows computed in torch.
`--elements` makes the buffers smaller, to try the script itself. Exits with 1 if a kernel is wrong.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moe.formats import FORMATS
from moe.formats.quant_tensor import QuantTensor
from moe.kernels import quantize
from moe.kernels.activation import activate, activate_torch
from moe.kernels.align import align_tokens
from moe.kernels.batched_gemm import batched_gemm
from moe.kernels.combine import combine, combine_torch
from moe.kernels.grouped_gemm import grouped_gemm
from moe.kernels.quantize_weights import moe_quantize_weights
from moe.kernels.tiles import block_rows

if TYPE_CHECKING:
    from collections.abc import Callable

ELEMENTS = 2**31 + 2**24
BF16 = torch.bfloat16


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """A matrix [rows, columns] of at least `elements` bf16, with values in the rows `at` only."""

    data: Tensor
    at: Tensor

    @classmethod
    def of(cls, elements: int, columns: int, device: torch.device, step: int = 1) -> Buffer:
        """Return a new buffer; its number of rows is a multiple of `step`."""
        rows = -(-elements // (columns * step)) * step
        data = torch.empty((rows, columns), dtype=BF16, device=device)
        ends = range(min(rows, 4))
        at = torch.tensor(sorted({*ends, *(rows - 1 - end for end in ends)}), device=device)
        generator = torch.Generator(device).manual_seed(0)
        data[at] = torch.randn(len(at), columns, device=device, generator=generator).to(BF16)
        return cls(data=data, at=at)


def ids_of(buffer: Buffer, expert: int = 0) -> Tensor:
    """Return [rows, 1] int32: this expert for the rows with values, -1 for all others."""
    ids = torch.full((len(buffer.data), 1), -1, dtype=torch.int32, device=buffer.data.device)
    ids[buffer.at] = expert
    return ids


def weights(experts: int, out: int, inner: int, device: torch.device) -> Tensor:
    """Return [e, out, inner] bf16; only the last expert has values."""
    w = torch.empty((experts, out, inner), dtype=BF16, device=device)
    generator = torch.Generator(device).manual_seed(1)
    last = torch.randn(out, inner, device=device, generator=generator) / inner**0.5
    w[-1] = last.to(BF16)
    return w


def grouped_inputs(elements: int, device: torch.device) -> float:
    """T * K: rows of the first product are read beyond 2**31 elements."""
    x = Buffer.of(elements, 8192, device)
    return _grouped(x, weights(1, 64, 8192, device))


def grouped_outputs(elements: int, device: torch.device) -> float:
    """T * k * 2N: rows of the first product are written beyond 2**31 elements."""
    x = Buffer.of(elements // 64, 128, device)
    return _grouped(x, weights(1, 8192, 128, device))


def grouped_weights(elements: int, device: torch.device) -> float:
    """E * 2N * K: the last expert's weights lie beyond 2**31 elements."""
    out = inner = 4096 if elements > 2**26 else 64
    x = Buffer.of(inner * 8, inner, device)
    return _grouped(x, weights(-(-elements // (out * inner)), out, inner, device))


def _grouped(x: Buffer, w: Tensor) -> float:
    ids, rows = ids_of(x, len(w) - 1), len(x.data)
    aligned = align_tokens(ids, len(w), block_rows(len(x.at), 1, interpreted=False))
    y = grouped_gemm(
        QuantTensor(codes=x.data), QuantTensor(codes=w), aligned, rows=rows, dtype=torch.float32
    )
    return _error(y[x.at], x.data[x.at].double() @ w[-1].double().T)


def batched(elements: int, device: torch.device) -> float:
    """E * C * K: the last expert's rows lie beyond 2**31 elements."""
    inner, capacity = 1024, 256 if elements > 2**26 else 4
    rows = Buffer.of(elements, inner, device, step=capacity)
    x = rows.data.view(-1, capacity, inner)
    counts = torch.zeros(len(x), dtype=torch.int32, device=device)
    counts[-1] = capacity
    x[-1, :-4] = 0
    w = torch.empty((len(x), 16, inner), dtype=BF16, device=device)
    w[-1] = weights(1, 16, inner, device)[0]
    y = batched_gemm(QuantTensor(codes=x), QuantTensor(codes=w), counts, dtype=torch.float32)
    return _error(y[-1], x[-1].double() @ w[-1].double().T)


def activation(elements: int, device: torch.device) -> float:
    """T * k * 2N: gate and up are read beyond 2**31 elements."""
    h = Buffer.of(elements, 4096, device)
    out = activate(h.data, ids_of(h))
    return _error(out[h.at], activate_torch(h.data[h.at]))


def rows_to_codes(elements: int, device: torch.device) -> float:
    """Codes and scales by group of rows beyond 2**31 elements."""
    x = Buffer.of(elements, 4096, device)
    codes, scale = quantize.quantize_rows(x.data, "fp8", 128)
    right = quantize.quantize_rows_torch(x.data[x.at], "fp8", 128)
    assert torch.equal(scale[x.at], right[1]), "scales differ"
    return _error(codes.view(torch.uint8)[x.at], right[0].view(torch.uint8))


def tensor_to_codes(elements: int, device: torch.device) -> float:
    """One scale of the rows in use, and the codes under it, beyond 2**31 elements."""
    x = Buffer.of(elements, 4096, device)
    scale = quantize.tensor_scale(x.data, ids_of(x), "fp8")
    used = torch.zeros(len(x.at), dtype=torch.int32, device=device)
    right = quantize.tensor_scale_torch(x.data[x.at], used, "fp8")
    assert torch.equal(scale, right), f"the scale is {float(scale)}, expected {float(right)}"
    codes = quantize.quantize_tensor(x.data, scale, "fp8").view(torch.uint8)
    expected = quantize.quantize_tensor_torch(x.data[x.at], scale, "fp8").view(torch.uint8)
    return _error(codes[x.at], expected)


def weights_to_codes(elements: int, device: torch.device) -> float:
    """Codes and block scales of the last expert, beyond 2**31 elements."""
    side = 4096 if elements > 2**26 else 256
    w = weights(-(-elements // side**2), side, side, device)
    made = moe_quantize_weights(w, FORMATS["fp8_block"]).expert(len(w) - 1)
    right = moe_quantize_weights(w[-1:].clone(), FORMATS["fp8_block"]).expert(0)
    assert torch.equal(made.codes.view(torch.uint8), right.codes.view(torch.uint8)), "codes differ"
    assert made.scale is not None
    assert right.scale is not None
    return _error(made.scale, right.scale)


def combined(elements: int, device: torch.device) -> float:
    """T * k * K: the weighted sum reads beyond 2**31 elements."""
    slots = 8
    y = Buffer.of(elements, 4096, device, step=slots)
    ids = ids_of(y).view(-1, slots)
    weight = torch.rand(ids.shape, device=device)
    out = combine(y.data, weight, ids)
    tokens = torch.tensor(sorted(set((y.at // slots).tolist())), device=device)
    rows = (tokens[:, None] * slots + torch.arange(slots, device=device)).flatten()
    right = combine_torch(y.data[rows], weight[tokens], ids[tokens])
    return _error(out[tokens], right)


def _error(actual: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the largest expected value; inf for NaN."""
    difference = (actual.double() - expected.double()).abs().amax()
    size = expected.double().abs().amax().clamp(min=1e-30)
    return float(torch.nan_to_num(difference / size, nan=torch.inf))


CHECKS: tuple[Callable[[int, torch.device], float], ...] = (
    *(grouped_inputs, grouped_outputs, grouped_weights, batched, activation),
    *(rows_to_codes, tensor_to_codes, weights_to_codes, combined),
)
LARGEST_ERROR = 2.0**-8  # a rounding to bf16; offsets that overflow read other rows


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each kernel. Returns 1 if one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--elements", type=int, default=ELEMENTS)
    parser.add_argument("--device", default="cuda")
    options = parser.parse_args(arguments)
    device, failed = torch.device(options.device), 0
    for check in CHECKS:
        try:
            error = check(options.elements, device)
            word = "right" if error <= LARGEST_ERROR else "wrong"
        except (AssertionError, RuntimeError) as reason:
            error, word = float("inf"), f"wrong: {reason}"
        failed += word != "right"
        print(f"{check.__name__:<18} {options.elements} elements, error {error:.2g}: {word}")
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
