"""Define the rows of fp4 e2m1: OCP's mxfp4 and NVIDIA's nvfp4. Torch-free.

Backends here decode e2m1 to bf16, exactly, so the codes need no feature of the platform.
"""

from __future__ import annotations

from dataclasses import replace

from moe.formats.format import GROUP_QUANTIZER, Format

# Weights or activations, a power of two per 32 columns of a row, by OCP's rule.
_MX = Format(
    name="mxfp4",
    target="moe.formats.e2m1.codec:E2M1",
    truth="moe.formats.e2m1.truth:E2M1Truth",
    quantizer=GROUP_QUANTIZER,
    grid="e2m1",
    top=6.0,
    packing=2,
    block=(1, 32),
    scale_dtype="e8m0",
    scale_rounding="floor",
    exact_scale=True,
)
# Weights: an e4m3 scale per 16 columns of a row, and a global scale per expert's matrix.
_NV = replace(
    _MX,
    name="nvfp4",
    block=(1, 16),
    scale_dtype="e4m3",
    scale_rounding=None,
    scale_divides=True,
    global_scale=True,
)

ROWS = (
    _MX,
    _NV,
    # Activations, with a global scale that is calibrated, or computed for each call.
    replace(_NV, name="nvfp4_static", static=True),
    replace(_NV, name="nvfp4_dynamic"),
)
