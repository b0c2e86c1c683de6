"""Values that random inputs hardly have, at fixed token numbers: some mistakes show on them only.

- Every fourth token has a 128-block of zeros: its scale must not become 0, nor its codes 0 / 0.
- With a static scale every second token, each DP rank's first among them, has one element beyond
  the calibrated range, by so little that saturation is no larger an error than rounding.

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
