"""The tensors of a case: repeatable anywhere, and made so that wrong answers show.

Every number comes from a counter-based integer hash of (seed, tensor, row, column), then one
exact multiplication: bit for bit the same on CPU, CUDA and ROCm, and whatever the layout, since
rows are numbered over the whole world. So a failure on a GPU repeats at a desk.

Judgeable: pre-activations have an rms of 1 to 2; magnitudes differ from expert to expert and
from 128-block to 128-block, so that a scale in the wrong place shows; the router's chosen
weights are spread but none is negligible; and a gap of 1/2 lies between chosen and unchosen.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness import exact
from moe.spec import BLOCK
from moe.types import TORCH_DTYPE

if TYPE_CHECKING:
    from torch import Tensor

    from harness.case import MoETestConfig

CALIBRATION_TOKENS = 32  # static scales come from these; they belong to no rank
_STD = 147.8  # standard deviation of the sum of four independent bytes
# Magnitudes of blocks and experts: log-normal in eight steps, mean square 1.
_LOG2 = (-1.25, -0.75, -0.4, -0.1, 0.1, 0.4, 0.75, 1.25)
_NORM = (sum(4.0**x for x in _LOG2) / len(_LOG2)) ** 0.5
_MAGNITUDES = tuple(2.0**x / _NORM for x in _LOG2)


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """x: [T, K] model dtype. logits: [T, E] model dtype. index: [T] global token numbers."""

    x: Tensor
    logits: Tensor
    index: Tensor


def _mix(x: Tensor) -> Tensor:
    """A bijective 32-bit hash, elementwise on int32 with wrap-around."""
    x = (x ^ _shift(x, 16)) * 0x7FEB352D
    x = (x ^ _shift(x, 15)) * -2073254261  # 0x846CA68B as a signed number
    return x ^ _shift(x, 16)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own keeps the sign."""
    return (x >> bits) & ((1 << (32 - bits)) - 1)


def bits(seed: int, tensor: str, rows: Tensor, columns: int) -> Tensor:
    """[R] int32 row numbers -> [R, columns] int32 hash values.

    rows may be any numbers: [R] rows of a larger tensor give that tensor's rows.
    """
    key = zlib.crc32(f"{tensor}/{seed}".encode())
    start = torch.tensor(key - (key & 0x80000000) * 2, dtype=torch.int32, device=rows.device)
    counter = torch.arange(columns, dtype=torch.int32, device=rows.device)
    by_row = _mix(_mix(rows.to(torch.int32) ^ start) + 0x3C6EF372)
    return _mix(by_row[:, None] + counter * -1640531527)  # 0x9E3779B9: the golden ratio


def normal(seed: int, tensor: str, rows: Tensor, columns: int) -> Tensor:
    """[R, columns] float32 with mean 0 and variance 1, close to normal, within +-3.5."""
    h = bits(seed, tensor, rows, columns)
    total = (h & 255) + (_shift(h, 8) & 255) + (_shift(h, 16) & 255) + (_shift(h, 24) & 255)
    return (total - 510).to(torch.float32) * (1.0 / _STD)


def magnitudes(seed: int, tensor: str, rows: Tensor, columns: int) -> Tensor:
    """[R, columns] float32 from eight log-normal steps with mean square 1."""
    table = torch.tensor(_MAGNITUDES, dtype=torch.float32, device=rows.device)
    return table[(_shift(bits(seed, tensor, rows, columns), 7) & 7).long()]


def _blocks(seed: int, tensor: str, shape: tuple[int, int], device: torch.device) -> Tensor:
    """[rows, cols] float32 magnitudes, one for each 128x128 block."""
    rows, cols = shape
    numbers = torch.arange(-(-rows // BLOCK), device=device)
    small = magnitudes(seed, tensor, numbers, -(-cols // BLOCK))
    wide = small.repeat_interleave(BLOCK, dim=0)[:rows]
    return wide.repeat_interleave(BLOCK, dim=1)[:, :cols]


def _matrix(
    seed: int, tensor: str, shape: tuple[int, int], rms: float, device: torch.device
) -> Tensor:
    """[rows, cols] float32 with this rms on average, magnitudes by block."""
    rows, cols = shape
    values = normal(seed, tensor, torch.arange(rows, device=device), cols)
    return values * _blocks(seed, f"{tensor}.block", shape, device) * rms


def expert_weights(
    case: MoETestConfig, expert: int | str, device: torch.device
) -> tuple[Tensor, Tensor]:
    """One expert's (w13 [2N, K], w2 [K, N]) in the model dtype; "shared" for the shared ones.

    The shared experts are one MLP of shared_experts * n columns.
    """
    n = case.n * case.shared_experts if expert == "shared" else case.n
    dtype = TORCH_DTYPE[case.dtype]
    if case.exact:
        w13, w2 = exact.matrices(case, bits, expert, n, device)
        return w13.to(dtype), w2.to(dtype)
    number = torch.tensor([0 if expert == "shared" else int(expert)], device=device)
    size = float(magnitudes(case.seed, f"size.{expert}", number, 1)) ** 0.5
    gate_up = _matrix(case.seed, f"w13.{expert}", (2 * n, case.k), 1.5 * size / case.k**0.5, device)
    # gate * up grows with the square of the size; undone here, so that no expert drowns another,
    # nor the shared ones all.
    rms = (0.5 if expert == "shared" else 1.0) / (size * size) / n**0.5
    down = _matrix(case.seed, f"w2.{expert}", (case.k, n), rms, device)
    dtype = TORCH_DTYPE[case.dtype]
    return gate_up.to(dtype), down.to(dtype)


def tokens(
    case: MoETestConfig, dp_rank: int, count: int, device: torch.device, start: int = 0
) -> Tokens:
    """`count` tokens of this DP rank from `start`; its token i has global number d * 2m + i.

    Twice m numbers (at least four) are set aside for each rank d: a case's second call has
    tokens of its own, so that what is left of the first call's is wrong there.
    """
    index = torch.arange(start, start + count, device=device) + dp_rank * 2 * max(case.m, 2)
    return tokens_at(case, "token", index)


def calibration_tokens(case: MoETestConfig, device: torch.device) -> Tokens:
    return tokens_at(case, "calibration", torch.arange(CALIBRATION_TOKENS, device=device))


def tokens_at(case: MoETestConfig, kind: str, index: Tensor) -> Tokens:
    """The tokens with these global numbers [T]."""
    dtype = TORCH_DTYPE[case.dtype]
    x = exact.x_rows(case, bits, kind, index) if case.exact else _x(case, kind, index)
    logits = _logits(case, kind, index)
    return Tokens(x=x.to(dtype), logits=logits.to(dtype), index=index)


def _x(case: MoETestConfig, kind: str, index: Tensor) -> Tensor:
    """[T, K] float32, magnitudes by token and 128 columns."""
    size = magnitudes(case.seed, f"{kind}.size", index, -(-case.k // BLOCK))
    values = normal(case.seed, f"{kind}.x", index, case.k)
    return values * size.repeat_interleave(BLOCK, dim=1)[:, : case.k]


def _logits(case: MoETestConfig, kind: str, index: Tensor) -> Tensor:
    """[T, E] float32 multiples of 1/64 or 1/32, exact in bf16.

    The chosen k lie in [1, 2]: their softmax weights differ by less than 3 times. All others lie
    at 0.5 or below, the lower the more they are: even without renormalisation most of the weight
    is the chosen ones', and never all of it.
    """
    experts, k = case.num_experts, case.top_k
    h = bits(case.seed, f"{kind}.order", index, experts).to(torch.int64)
    unique = h * experts + torch.arange(experts, device=index.device)  # no ties: sorts alike
    place = unique.argsort(dim=1).argsort(dim=1)  # [T, E] a random permutation of 0..E-1
    if case.exact:
        return exact.logits(place < k)
    noise = _shift(bits(case.seed, f"{kind}.jitter", index, experts), 9)
    steps = 48 // max(k, 1)  # of 1/64 between two chosen ones
    chosen = 128 - place * steps - noise % max(steps // 2, 1)
    level = 1.5 - math.log(max(experts - k, 1) / (0.3 * k))  # all others weigh .3 of the chosen
    others = 2 * (round(32 * min(level, 0.5)) - noise % 16)
    return torch.where(place < k, chosen, others).to(torch.float32) / 64
