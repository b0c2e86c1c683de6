"""Draw the errors of an output as a picture: rows down, columns across."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from harness.report.png import BROKEN, MAGENTA, save

if TYPE_CHECKING:
    from torch import Tensor

    from harness.fixtures.layer_call import Call

SIDE = 1024  # largest width and height in pixels
LOWEST, HIGHEST = -4.0, 1.0  # log10 of the error over its row's rms, at both ends of the colours


def save_rows(call: Call, folder: str, name: str) -> str:
    """Write the errors of a call's output [T, K] as NAME.png and return the file's name.

    Raises OSError.
    """
    output = call.output.out
    tokens, columns = output.shape
    text = (
        f"rows 0-{tokens - 1} down, columns 0-{columns - 1} across; colour: log10 of the error "
        f"over its row's rms, from {LOWEST:g} (black) to {HIGHEST:g} (yellow); magenta: NaN or Inf"
    )
    levels = error_levels(output, call.answer.out)
    return save(Path(folder), f"{name}.png", levels, MAGENTA, text)


def error_levels(actual: Tensor, expected: Tensor) -> list[bytes]:
    """Return rows of colour numbers, at most SIDE x SIDE, each the largest error of its patch.

    actual, expected: [T, K].
    """
    values = actual.to(expected.dtype)
    rms = expected.square().mean(dim=1, keepdim=True).sqrt().clamp(min=1e-38)
    log = ((values - expected).abs() / rms).clamp(min=10.0 ** (LOWEST - 1)).log10()
    level = (log - LOWEST) / (HIGHEST - LOWEST) * (BROKEN - 1)
    level = level.round().clamp(0, BROKEN - 1).masked_fill(~values.isfinite(), BROKEN)
    size = [min(side, SIDE) for side in level.shape]
    small = torch.nn.functional.adaptive_max_pool2d(level[None, None], size)[0, 0]
    return [bytes(row) for row in small.to(torch.uint8).tolist()]
