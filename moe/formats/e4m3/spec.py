"""Define the rows of fp8 e4m3 (OCP, `torch.float8_e4m3fn`): weight formats, then activations."""

from __future__ import annotations

from typing import Any

from moe.formats.format import Format
from moe.formats.fp8 import E4M3_MAX
from moe.spec import Needs

# Products of e4m3 codes need matrix units for OCP e4m3: e4m3fnuz units read each code as half.
_NEEDS = Needs(features=frozenset({"fp8_e4m3"}))


def _row(name: str, block: tuple[int | None, int | None], **scales: Any) -> Format:
    """Return a format of e4m3 codes that share a scale per block. scales: more fields."""
    return Format(
        name=name,
        target="moe.formats.e4m3.codec:E4M3",
        truth="moe.formats.e4m3.truth:E4M3Truth",
        needs=_NEEDS,
        grid="e4m3",
        top=E4M3_MAX,
        block=block,
        exact_scale=True,
        **scales,
    )


ROWS = (
    _row("fp8_tensor", (None, None)),  # weights, one scale per expert's matrix
    _row("fp8_channel", (1, None)),  # weights, one scale per output channel
    _row("fp8_block", (128, 128)),  # weights, one scale per 128x128 block
    _row("fp8_static", (None, None), static=True),  # activations, one calibrated scale
    _row("fp8_dynamic", (None, None)),  # activations, one scale per call
    _row("fp8_token", (1, None)),  # activations, one scale per token
    _row("fp8_group", (1, 128)),  # activations, one scale per 128 columns of a token
    # Weights or activations, a power of two per 32 columns of a row, rounded up: nothing saturates,
    # as in NVIDIA's conversion.
    _row("mxfp8", (1, 32), scale_dtype="e8m0", scale_rounding="up", scale_divides=True),
)
