"""The tensors of a case: repeatable anywhere, and made so that wrong answers show.

Every number comes from a counter-based integer hash of (seed, tensor, row, column), then one
exact multiplication: bit for bit the same on CPU, CUDA and ROCm, and whatever the layout, since
rows are numbered over the whole world. So a failure on a GPU repeats at a desk.

Judgeable: pre-activations have an rms of 1 to 2; magnitudes differ from expert to expert and
from 128-block to 128-block, so that a scale in the wrong place shows; the router's chosen
weights are spread but none is negligible; and a gap of 1/2 lies between chosen and unchosen, but
for float32 (see special.py, which has the rare values that some mistakes need to show).
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness import exact, special
from moe.spec import BLOCK
from moe.types import TORCH_DTYPE

if TYPE_CHECKING:
    from collections.abc import Sequence

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


def bits(seed: int, tensor: str | Sequence[str], rows: Tensor, columns: int) -> Tensor:
    """[R] int32 row numbers -> [R, columns] int32 hash values; [A, R, columns] of A tensors.

    rows may be any numbers: [R] rows of a larger tensor give that tensor's rows.
    """
    keys = [_key(seed, name) for name in ([tensor] if isinstance(tensor, str) else tensor)]
    start = torch.tensor(keys, dtype=torch.int32, device=rows.device)[:, None]
    counter = torch.arange(columns, dtype=torch.int32, device=rows.device)
    by_row = _mix(_mix(rows.to(torch.int32) ^ start) + 0x3C6EF372)
    found = _mix(by_row[:, :, None] + counter * -1640531527)  # 0x9E3779B9: the golden ratio
    return found[0] if isinstance(tensor, str) else found


def _key(seed: int, tensor: str) -> int:
    """A signed 32-bit number."""
    key = zlib.crc32(f"{tensor}/{seed}".encode())
    return key - (key & 0x80000000) * 2


def normal(seed: int, tensor: str | Sequence[str], rows: Tensor, columns: int) -> Tensor:
    """As `bits`, float32 with mean 0 and variance 1, close to normal, within +-3.5."""
    h = bits(seed, tensor, rows, columns)
    total = (h & 255) + (_shift(h, 8) & 255) + (_shift(h, 16) & 255) + (_shift(h, 24) & 255)
    return (total - 510).to(torch.float32) * (1.0 / _STD)


def magnitudes(seed: int, tensor: str | Sequence[str], rows: Tensor, columns: int) -> Tensor:
    """As `bits`, float32 from eight log-normal steps with mean square 1."""
    table = torch.tensor(_MAGNITUDES, dtype=torch.float32, device=rows.device)
    return table[(_shift(bits(seed, tensor, rows, columns), 7) & 7).long()]


def _blocks(
    seed: int, tensors: Sequence[str], shape: tuple[int, int], device: torch.device
) -> Tensor:
    """[A, rows, cols] float32 magnitudes, one for each 128x128 block."""
    rows, cols = shape
    numbers = torch.arange(-(-rows // BLOCK), device=device)
    small = magnitudes(seed, tensors, numbers, -(-cols // BLOCK))
    wide = small.repeat_interleave(BLOCK, dim=1)[:, :rows]
    return wide.repeat_interleave(BLOCK, dim=2)[:, :, :cols]


def _matrices(
    seed: int,
    tensors: Sequence[str],
    shape: tuple[int, int],
    rms: Sequence[float],
    device: torch.device,
) -> Tensor:
    """[A, rows, cols] float32, each with its rms on average, magnitudes by block."""
    rows, cols = shape
    values = normal(seed, tensors, torch.arange(rows, device=device), cols)
    blocks = _blocks(seed, [f"{name}.block" for name in tensors], shape, device)
    return values * blocks * torch.tensor(rms, device=device)[:, None, None]


def expert_weights(
    case: MoETestConfig, expert: int | str, device: torch.device
) -> tuple[Tensor, Tensor]:
    """One expert's (w13 [2N, K], w2 [K, N]) in the model dtype; "shared" for the shared ones.

    The shared experts are one MLP of shared_experts * n columns.
    """
    return weights_of(case, [expert], device)[0]


def weights_of(
    case: MoETestConfig, experts: Sequence[int | str], device: torch.device
) -> list[tuple[Tensor, Tensor]]:
    """`expert_weights` of several, all as wide as the first, made by the same few kernels."""
    n = case.n * case.shared_experts if experts[0] == "shared" else case.n
    dtype = TORCH_DTYPE[case.dtype]
    if case.exact:
        pairs = [exact.matrices(case, bits, e, n, device) for e in experts]
    else:
        pairs = list(zip(*_weights(case, experts, n, device), strict=True))
    return [(w13.to(dtype, copy=True), w2.to(dtype, copy=True)) for w13, w2 in pairs]


def _weights(
    case: MoETestConfig, experts: Sequence[int | str], n: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """[A, 2n, K] and [A, K, n] float32."""
    sizes = _sizes(case, experts)
    wide = [1.5 * size / case.k**0.5 for size in sizes]
    gate_up = _matrices(case.seed, [f"w13.{e}" for e in experts], (2 * n, case.k), wide, device)
    # gate * up grows with the square of the size; undone here, so that no expert drowns another,
    # nor the shared ones all.
    usual = 0.5 if experts[0] == "shared" else 1.0
    back = [usual / (size * size) / n**0.5 for size in sizes]
    down = _matrices(case.seed, [f"w2.{e}" for e in experts], (case.k, n), back, device)
    return gate_up, down


def _sizes(case: MoETestConfig, experts: Sequence[int | str]) -> list[float]:
    """How large each expert's first matrix is; on the CPU, so that nothing waits for a device."""
    numbers = torch.tensor([0 if e == "shared" else int(e) for e in experts])
    names = [f"size.{e}" for e in experts]
    each: list[float] = magnitudes(case.seed, names, numbers, 1)[:, :, 0].diagonal().tolist()
    return [size**0.5 for size in each]


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
    if kind == "token":
        x = special.with_zeros(case, x, index)
    logits = _logits(case, kind, index)
    return Tokens(x=x.to(dtype), logits=logits.to(dtype), index=index)


def _x(case: MoETestConfig, kind: str, index: Tensor) -> Tensor:
    """[T, K] float32, magnitudes by token and 128 columns."""
    size = magnitudes(case.seed, f"{kind}.size", index, -(-case.k // BLOCK))
    values = normal(case.seed, f"{kind}.x", index, case.k)
    x = values * size.repeat_interleave(BLOCK, dim=1)[:, : case.k]
    if kind == "calibration":
        return special.calibrating(x)
    return special.beyond_range(case, x, index) if special.is_static(case) else x


def _logits(case: MoETestConfig, kind: str, index: Tensor) -> Tensor:
    """[T, E] float32 multiples of 1/64 or 1/32, exact in bf16; for float32 layers between them.

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
    found = torch.where(place < k, chosen, others).to(torch.float32) / 64
    if case.dtype != "f32":
        return found
    return special.between(found, place, k, index, _shift(noise, 15))
