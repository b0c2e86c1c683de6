"""NVIDIA's nvfp4: an e4m3 scale per 16 columns, and a global scale per tensor."""

from __future__ import annotations

from typing import ClassVar

from moe.quant.grouped import GroupCodes


class Nvfp4(GroupCodes):
    """Use calibrated global scales of activations; their block scales are dynamic."""

    weights: ClassVar[str] = "nvfp4"
    activations: ClassVar[str] = "nvfp4_static"


class Nvfp4Dynamic(GroupCodes):
    """Compute the global scale over all rows that the rank has at that point."""

    weights: ClassVar[str] = "nvfp4"
    activations: ClassVar[str] = "nvfp4_dynamic"
    input_scale_is_local: ClassVar[bool] = False
