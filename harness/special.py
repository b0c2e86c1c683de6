"""Values that random inputs hardly have, at fixed token numbers: some mistakes show on them only.

- Every fourth token has a 128-block of zeros: its scale must not become 0, nor its codes 0 / 0.
- With a static scale every second token, each DP rank's first among them, has one element beyond
  the calibrated range, by so little that saturation is no larger an error than rounding.
- In float32 logits lie between the values of bf16, and in every second token the two best experts
  that are not chosen are so close to the last chosen one that in bf16 the three are equal.

All of it depends on nothing but a token's global number and on the case, so layouts agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.spec import BLOCK, FORMATS

if TYPE_CHECKING:
    from torch import Tensor

    from harness.case import MoETestConfig

RANGE = 5.0  # the largest magnitude of calibration tokens, unless they are exact ones
BEYOND = 1.1 * RANGE  # a code of 493: with fp8 a cast without a clamp makes NaN of 464 and more
CLOSE = 2.0**-10  # between two logits that are one in bf16; the routing's check allows 2**-19


def is_static(case: MoETestConfig) -> bool:
    return FORMATS[case.problem.scheme.activations].static


def with_zeros(case: MoETestConfig, x: Tensor, index: Tensor) -> Tensor:
    """x [T, K] of tokens [T]; the last block is zero in some, where that leaves another block."""
    if case.k <= BLOCK:
        return x
    start = (case.k - 1) // BLOCK * BLOCK
    last = torch.arange(case.k, device=x.device) >= start
    return x.masked_fill((index % 4 == 3)[:, None] & last, 0.0)


def beyond_range(case: MoETestConfig, x: Tensor, index: Tensor) -> Tensor:
    """x [T, K] of tokens [T]: one element of every second one is beyond what was calibrated."""
    at = (index // 2 * 37 % case.k)[:, None] == torch.arange(case.k, device=x.device)
    return torch.where((index % 2 == 0)[:, None] & at, torch.where(x < 0, -BEYOND, BEYOND), x)


def calibrating(x: Tensor) -> Tensor:
    """x [T, K] of the calibration tokens: the largest magnitude is RANGE, whatever the seed."""
    x = x.clamp(-RANGE, RANGE)
    x[0, 0] = RANGE
    return x


def between(logits: Tensor, place: Tensor, top_k: int, index: Tensor, fine: Tensor) -> Tensor:
    """[T, E] logits, multiples of 1/64, moved up between the values of bf16.

    place: [T, E] of each expert in its token's order; fine: [T, E] int hash values, 8 bits.
    """
    last = logits.masked_fill(place != top_k - 1, 0.0).sum(dim=1, keepdim=True)
    near = (place >= top_k - 1) & (place <= top_k + 1)
    # The best has the highest id: among equals most sorts and searches take the lowest.
    best = near & (near.cumsum(dim=1) == near.sum(dim=1, keepdim=True))
    spread = logits + fine.to(torch.float32) * 2.0**-15
    return torch.where(near & (index % 2 == 1)[:, None], last + CLOSE * best, spread)
