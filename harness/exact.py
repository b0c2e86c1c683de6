"""Exact mode: inputs for which every sum is exact in any order, so that bits can be compared.

x is 0 or one of two powers of two; a row of a weight matrix has a few non-zero entries, small
powers of two. Then a right layer must give these very bits, whatever its order of summing, its
tiles, its layout and (the declared) places of rounding:

- gate: each term is positive, so a gate is 0 or at least 32, where silu(gate) == gate in float32;
- up, the intermediate, each expert's output and every partial sum over slots, ranks and shared
  experts: whole multiples of a unit, at most 256 of them, which bf16 holds;
- quantization: whatever shares a scale holds one element of exactly `top` times a power of two,
  so the scale is a power of two and every code exact. These largest elements meet zeros in the
  products: they set scales, which differ from block to block, and nothing else;
- router weights: all chosen logits are equal, the others far below: 1 / top_k each.

What stays inexact, and is judged by the ordinary bounds instead (bitwise.py says so; with
quantization these may be too wide here, and the case vacuous): a top_k that is no power of two or
above 8 (above 4 with shared experts), more than one shared expert, quantized shards whose columns
do not come in eights, and sizes too small for non-zero entries.
Equal router weights and powers of two hide some mistakes: this mode is beside the other one.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from harness import special
from harness.bitwise import PERIOD, is_bitwise
from moe.spec import BLOCK, FORMATS

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from harness.case import MoETestConfig
    from moe.reference.answer import Answer

    Bits = Callable[[int, str, Tensor, int], Tensor]

_TERMS = 4  # non-zero entries at most in a row of gate or up
_DOWN_TERMS = 2  # the same in a row of w2
_GATE, _UP, _DOWN = 32.0, 2.0**-5, 2.0  # sizes of the regular entries
_SEED_GATE, _SEED_UP = 8.0, 2.0**-4  # make the intermediate's largest element
_HIDDEN = -200.0  # a logit whose softmax is 0 in float32 beside chosen ones


def settled(case: MoETestConfig, answer: Answer) -> Answer:
    """The answer with no room for anything, where the case is bitwise."""
    if not is_bitwise(case):
        return answer
    none = torch.zeros_like(answer.variance)
    return dataclasses.replace(answer, variance=none, flips=none, along=none.expand(3, -1))


def _top(case: MoETestConfig, which: str) -> float:
    """The largest code of "weights" or "activations"; without codes, enough for silu."""
    fmt = FORMATS[getattr(case.problem.scheme, which)]
    return 16.0 if fmt.grid == "model" else fmt.top


def _bit(bits: Tensor, number: int) -> Tensor:
    """float32 0 or 1."""
    return ((bits >> number) & 1).float()


def x_rows(case: MoETestConfig, bits: Bits, kind: str, index: Tensor) -> Tensor:
    """[T, K] float32. Of each 128 columns 0 holds the largest values, 1 zeros, 2 never zeros."""
    h = bits(case.seed, f"{kind}.exact", index, case.k)
    size = 1 + _bit(bits(case.seed, f"{kind}.unit", index, 1), 9)  # [T, 1] one or two
    column = torch.arange(case.k, device=index.device) % BLOCK
    x = _bit(h, 7) * _signs(case, bits, index.device) * size
    x = torch.where(column == 2, size, torch.where(column == 1, 0.0, x))
    grouped = FORMATS[case.problem.scheme.activations].per == "group"
    twice = 1 + _bit(h if grouped else h[:, :1], 11)  # where a scale is one per row, so is this
    largest = _top(case, "activations") * size / 2 * twice
    if kind == "token" and special.is_static(case):  # calibration tokens have 2 * top at most
        largest = torch.where(index[:, None] % 2 == 0, 4 * _top(case, "activations"), largest)
    return torch.where(column == 0, largest, x)


def _signs(case: MoETestConfig, bits: Bits, device: torch.device) -> Tensor:
    """[1, K] the sign that x and the gate's weights share in each column."""
    one = torch.zeros(1, dtype=torch.int64, device=device)
    signs = 1 - 2 * _bit(bits(case.seed, "exact.sign", one, case.k), 5)
    column = torch.arange(case.k, device=device) % BLOCK
    return torch.where(column == 2, 1.0, signs)


def _entries(h: Tensor, allowed: Tensor, columns: int) -> Tensor:
    """h: [R, t] hash values -> [R, columns] 1 at up to t allowed columns of each row, else 0."""
    places = allowed[(h.long() & 0x7FFFFFFF) % len(allowed)]
    return torch.zeros((len(h), columns), device=h.device).scatter_(1, places, 1.0)


def matrices(
    case: MoETestConfig, bits: Bits, expert: int | str, n: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """One expert's w13 [2n, K] and w2 [K, n], float32.

    Of each eight intermediate columns 0 holds the intermediate's largest values, 1 zeros.
    """
    name = f"exact.{expert}"
    one = torch.zeros(1, dtype=torch.int64, device=device)
    twice = float(1 + _bit(bits(case.seed, name, one, 1), 6))  # up is this much larger, w2 smaller
    gate_up = _gate_up(case, bits, name, torch.arange(n, device=device), twice)
    down = _down(case, bits, name, torch.arange(n, device=device)) / twice
    return gate_up, down


def _gate_up(case: MoETestConfig, bits: Bits, name: str, rows: Tensor, twice: float) -> Tensor:
    column = torch.arange(case.k, device=rows.device)
    allowed = column[column % BLOCK > 1]
    gate = _entries(bits(case.seed, f"{name}.gate", rows, _TERMS), allowed, case.k)
    gate = gate * _signs(case, bits, rows.device) * _GATE
    up = _entries(bits(case.seed, f"{name}.up", rows, _TERMS), allowed, case.k)
    up = up * (1 - 2 * _bit(bits(case.seed, f"{name}.sign", rows, case.k), 3)) * _UP * twice
    regular = (rows % PERIOD > 1)[:, None].float()
    gate, up = gate * regular, up * regular
    gate[:, 0] = (rows % PERIOD == 0) * _SEED_GATE
    up[:, 2] = torch.where(rows % PERIOD == 0, _SEED_UP * twice, up[:, 2])
    both = torch.cat([gate, up])
    unit = torch.ones(len(both), 1, device=rows.device)
    if FORMATS[case.problem.scheme.weights].per == "channel":
        unit[len(rows) :] = 2.0**-6  # a row of up has a scale of its own
    largest = _top(case, "weights") * unit * _scales(case, bits, name, both.shape, rows.device)
    return torch.where(column % BLOCK == 1, largest, both)


def _down(case: MoETestConfig, bits: Bits, name: str, columns: Tensor) -> Tensor:
    """[K, n], for an expert whose up is not larger."""
    rows = torch.arange(case.k, device=columns.device)
    allowed = columns[columns % PERIOD > 1]
    w = _entries(bits(case.seed, f"{name}.down", rows, _DOWN_TERMS), allowed, len(columns))
    signs = 1 - 2 * _bit(bits(case.seed, f"{name}.down.sign", rows, len(columns)), 3)
    scales = _scales(case, bits, f"{name}.down", w.shape, columns.device)
    return torch.where(columns % PERIOD == 1, _top(case, "weights") * scales, w * signs * _DOWN)


def _scales(
    case: MoETestConfig, bits: Bits, name: str, shape: torch.Size, device: torch.device
) -> Tensor:
    """[rows, cols] small powers of two, alike wherever the scheme has one scale for all."""
    rows = torch.arange(shape[0], device=device)
    per = FORMATS[case.problem.scheme.weights].per
    if per == "tensor":  # neighbours differ
        expert = name.split(".")[1]
        return torch.full(shape, 2.0 ** (int(expert) % 3 if expert.isdigit() else 0), device=device)
    if per == "channel":
        return (1 + _bit(bits(case.seed, f"{name}.scale", rows, 1), 13)).expand(shape)
    numbers = torch.arange(-(-shape[0] // BLOCK), device=device)
    blocks = 1 + _bit(bits(case.seed, f"{name}.scale", numbers, -(-shape[1] // BLOCK)), 13)
    wide = blocks.repeat_interleave(BLOCK, dim=0)[: shape[0]]
    return wide.repeat_interleave(BLOCK, dim=1)[:, : shape[1]]


def logits(chosen: Tensor) -> Tensor:
    """[T, E] bool -> float32: softmax gives the chosen ones equal shares, the others none."""
    return torch.where(chosen, 2.0, _HIDDEN)
