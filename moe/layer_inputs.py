"""Check what a layer is called with and built from, so that bad input is an error and no number.

Shapes, dtypes and devices are known on the host: no check waits for a device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.errors import MoEError
from moe.types import TORCH_DTYPE

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from moe.spec import LayerSpec


def check_tokens(
    layer_spec: LayerSpec, x: Tensor, logits: Tensor | None, is_padding: Tensor | None = None
) -> None:
    """Raise MoEError unless x is [T, K] in the layer's dtype, and the others fit it if given.

    logits: [T, E] of a float dtype. is_padding: [T] bool.
    """
    hidden, dtype = layer_spec.hidden, TORCH_DTYPE[layer_spec.dtype]
    if x.dim() != 2 or x.shape[1] != hidden:
        raise MoEError(
            f"x has shape {list(x.shape)}; the layer takes [T, {hidden}]: flatten the leading "
            "dimensions, or build the layer for another hidden size"
        )
    if x.dtype != dtype:
        raise MoEError(
            f"x is {_name(x.dtype)}; the layer takes {_name(dtype)}: convert x, or build the layer "
            "for its dtype"
        )
    if logits is not None:
        _check_logits(layer_spec, x, logits)
    if is_padding is not None and (str(is_padding.dtype), len(x)) != (
        "torch.bool",
        is_padding.numel(),
    ):
        raise MoEError(
            f"is_padding has shape {list(is_padding.shape)} and is {_name(is_padding.dtype)}; it "
            f"must be [{len(x)}] bool: pass one flag for each row of x"
        )


def _check_logits(layer_spec: LayerSpec, x: Tensor, logits: Tensor) -> None:
    """Raise MoEError for logits of another shape, of no float dtype, or on another device."""
    expected = [len(x), layer_spec.router_experts]
    if list(logits.shape) != expected:
        raise MoEError(
            f"router logits have shape {list(logits.shape)}; for {len(x)} rows of x and "
            f"{layer_spec.router_experts} experts they must have {expected}: pass one logit for "
            "each token and expert"
        )
    if not logits.is_floating_point():
        raise MoEError(
            f"router logits are {_name(logits.dtype)}; they must be of a float dtype: convert them"
        )
    if logits.device != x.device:
        raise MoEError(
            f"router logits are on {logits.device} and x is on {x.device}: move both to one device"
        )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
