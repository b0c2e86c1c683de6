"""Check the weights that a layer is built from: kernels would read wrong ones as other numbers.

The values of scales are looked at once, when a layer is built; kernels check shapes and dtypes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.errors import MoEError
from moe.formats import FORMATS
from moe.quant.scaled import given_scale

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format
    from moe.formats.quant_tensor import QuantTensor
    from moe.spec import Scheme
    from moe.types import ExpertWeights

_QUANTIZER = "pass what the method's quantize_weights returned"


def check_weights(weights: ExpertWeights, scheme: Scheme) -> None:
    """Raise MoEError for weights that are not those of the scheme's formats.

    It names the tensor, such as w13_scale, the first wrong value, and the rule. w13: [e, 2n, K] or
    [e, n, K], w2: [e, K, n]. Reads scales, so it waits for a GPU; those of meta tensors are none.
    """
    fmt = FORMATS[scheme.weights]
    if weights.format.name != fmt.name:
        raise MoEError(
            f"the weights are in format {weights.format.name!r}, and the layer's is {fmt.name!r}: "
            "quantize them with the layer's method"
        )
    _check_shapes(weights)
    for name, tensor in (("w13", weights.gate_up), ("w2", weights.down)):
        _check_tensor(name, tensor)
    _check_activation_scales(weights, FORMATS[scheme.activations])


def _check_shapes(weights: ExpertWeights) -> None:
    """Raise MoEError for matrices that do not fit each other."""
    up, down = weights.gate_up.shape, weights.down.shape
    fits = len(up) == len(down) == 3 and up[0] == down[0] and up[2] == down[1]
    if not fits or up[1] not in (down[2], 2 * down[2]):
        rule = "w13 is [e, 2n, K], or [e, n, K] without a gate, and w2 is [e, K, n]"
        raise MoEError(f"w13 of {list(up)} and w2 of {list(down)} do not fit each other: {rule}")


def _check_tensor(name: str, tensor: QuantTensor) -> None:
    """Raise MoEError for a matrix whose codes or scales are not those of its format."""
    try:
        tensor.check()
    except MoEError as error:
        raise MoEError(f"{name}: {error}") from error
    if tensor.scale is not None:
        _check_positive(f"{name}_scale", tensor.scale, tensor.format)
    if tensor.global_scale is not None:
        _check_positive(f"{name}_global", tensor.global_scale, tensor.format)
    if tensor.zero_point is not None and not tensor.zero_point.is_meta:
        beyond = (tensor.zero_point.int() > tensor.format.top).flatten()
        if bool(beyond.any()):
            value = int(tensor.zero_point.flatten()[int(beyond.int().argmax())])
            rule = f"codes of {tensor.format.name} are 0 to {tensor.format.top:g}; {_QUANTIZER}"
            raise MoEError(f"{name}_zero has the zero point {value}: {rule}")


def _check_activation_scales(weights: ExpertWeights, fmt: Format) -> None:
    """Raise MoEError for calibrated scales that are missing, not one number, or not positive."""
    if not fmt.static:
        return
    for name, scale in (("a1_scale", weights.a1_scale), ("a2_scale", weights.a2_scale)):
        _check_positive(name, given_scale(scale, fmt), fmt)


def _check_positive(name: str, scale: Tensor, fmt: Format) -> None:
    """Raise MoEError for a scale that is not a finite number above 0. e8m0: a byte, 255 is NaN."""
    if scale.is_meta:
        return
    flat = scale.reshape(-1)
    if scale.dtype == torch.uint8:
        is_wrong = flat == 255
    else:
        is_wrong = ~((flat.float() > 0) & flat.float().isfinite())
    if bool(is_wrong.any()):
        place = int(is_wrong.int().argmax())
        value = "NaN" if scale.dtype == torch.uint8 else f"{float(flat[place]):g}"
        index = [int(i) for i in torch.unravel_index(torch.tensor(place), scale.shape)]
        raise MoEError(
            f"{name}{index} is {value}: a scale of {fmt.name} is a finite number above 0; look for "
            f"NaN, infinity or uninitialised values in what it was computed from, or {_QUANTIZER}"
        )
