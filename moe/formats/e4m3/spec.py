"""Define the rows of fp8 e4m3 (OCP, `torch.float8_e4m3fn`): weight formats, then activations."""

from __future__ import annotations

from dataclasses import replace

from moe.formats.format import GROUP_QUANTIZER, Format
from moe.formats.fp8 import E4M3_MAX, rows_of
from moe.spec import Needs

_TENSOR = Format(
    name="fp8_tensor",
    target="moe.formats.e4m3.codec:E4M3",
    truth="moe.formats.e4m3.truth:E4M3Truth",
    # Products of e4m3 codes need matrix units for OCP e4m3: e4m3fnuz units read each code as half.
    needs=Needs(features=frozenset({"fp8_e4m3"})),
    grid="e4m3",
    top=E4M3_MAX,
    block=(None, None),
    exact_scale=True,
)
ROWS = (
    *rows_of(_TENSOR),
    # Weights or activations, a power of two per 32 columns of a row, rounded up: nothing saturates,
    # as in NVIDIA's conversion.
    replace(
        _TENSOR,
        name="mxfp8",
        quantizer=GROUP_QUANTIZER,
        block=(1, 32),
        scale_dtype="e8m0",
        scale_rounding="up",
        scale_divides=True,
    ),
)
