"""State which fp8 a platform has, its range, and the rows that every grid of fp8 has. Torch-free.

OCP e4m3 and e4m3fnuz both have 4 bits of exponent and 3 of mantissa, but the exponent of e4m3fnuz
is biased by 8 instead of 7: the same code is half the value, and nothing is above 240. Its code of
-0 is its only NaN.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from moe.errors import MoEError
from moe.spec import BLOCK

if TYPE_CHECKING:
    from moe.formats.format import Format
    from moe.spec import Platform

E4M3_MAX = 448.0
E4M3FNUZ_MAX = 240.0
# Feature of a platform -> grid of its fp8 and the largest code, in order of preference: a CPU has
# both, since float32 arithmetic multiplies codes of any format exactly.
_GRIDS = {"fp8_e4m3": ("e4m3", E4M3_MAX), "fp8_e4m3fnuz": ("e4m3fnuz", E4M3FNUZ_MAX)}


def fp8_grid(platform: Platform) -> str:
    """Return the grid of the platform's fp8. Raises MoEError if it has none."""
    return _of(platform)[0]


def fp8_range(platform: Platform) -> tuple[float, float]:
    """Return the smallest and the largest fp8 value. Raises MoEError for platforms without fp8."""
    top = _of(platform)[1]
    return -top, top


def _of(platform: Platform) -> tuple[str, float]:
    for feature, grid in _GRIDS.items():
        if feature in platform.features:
            return grid
    rule = f"it has none of the features {', '.join(_GRIDS)}"
    raise MoEError(f"platform {platform.name} has no fp8: {rule}; choose an int8 method, or none")


def rows_of(first: Format) -> tuple[Format, ...]:
    """Return the formats of a grid of fp8. first: the one for weights with a scale per matrix.

    Their names are its name, which ends in `_tensor`, with the other granularities.
    """
    stem = first.name.removesuffix("_tensor")
    return (
        first,
        replace(first, name=f"{stem}_channel", block=(1, None)),  # weights, per output channel
        replace(first, name=f"{stem}_block", block=(BLOCK, BLOCK)),  # weights, per 128x128 block
        replace(first, name=f"{stem}_static", static=True),  # activations, one calibrated scale
        replace(first, name=f"{stem}_dynamic"),  # activations, one scale per call
        replace(first, name=f"{stem}_token", block=(1, None)),  # activations, per token
        replace(first, name=f"{stem}_group", block=(1, BLOCK)),  # activations, per 128 columns
    )
