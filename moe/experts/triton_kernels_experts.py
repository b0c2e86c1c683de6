"""Compute experts by the package triton_kernels: bf16, and mxfp4 weights in the chip's own layout.

Rows are sorted by expert, those without an expert here last, and both products are ragged ones.
`matmul_ogs` of Triton 3.5's package takes its rows' experts as `ExptData`; that of 3.6 as the
metadata of a ragged tensor: whichever is there is made. vLLM ships the former, and its
`has_triton_kernels` makes it importable where the package itself is not installed.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import torch

from moe.errors import MoEError
from moe.experts.sorted_rows import SortedExperts

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Activations, ExpertWeights

_SCALES_APART = 4  # groups of a row: Hopper's layout of scales needs a multiple of this


class TritonKernelsExperts(SortedExperts):
    """Call `matmul_ogs` for each product; activation and weighted sum are the layer's own."""

    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Keep [e, in, out] matrices; mxfp4 in the layout that the package chooses for the chip."""
        from vllm.utils.import_utils import has_triton_kernels

        has_triton_kernels()
        self._ogs: Any = _module("matmul_ogs")
        self._w13, scale13 = _in_layout(weights.w13, weights.w13_scale)
        self._w2, scale2 = _in_layout(weights.w2, weights.w2_scale)
        self._precision = [self._ogs.PrecisionConfig(weight_scale=s) for s in (scale13, scale2)]
        biases = (weights.b13, weights.b2)
        self._biases = [None if bias is None else bias.float() for bias in biases]
        if scale13 is not None and _is_hopper(weights.w13.device):
            flags = _module("matmul_ogs_details.opt_flags")
            flags.update_opt_flags_constraints({"split_k": 1})

    def groups(self, ends: Tensor, rows: int) -> Any:
        return routing_data(ends, rows)

    def first_product(self, x: Activations, token: Tensor, groups: Any) -> Tensor:
        return self._product(x.codes[token], self._w13, groups, 0)

    def second_product(self, h: Tensor, order: Tensor, groups: Any) -> Tensor:
        del order
        return self._product(h, self._w2, groups, 1)

    def _product(self, rows: Tensor, w: Any, data: Any, matrix: int) -> Tensor:
        """Return [R, O] for rows [R, I] in the order of experts. matrix: 0 first, 1 second."""
        product: Tensor = self._ogs.matmul_ogs(
            rows, w, self._biases[matrix], data, precision_config=self._precision[matrix]
        )
        return product.reshape(len(rows), -1)  # a single row comes back as a vector


def _in_layout(w: Tensor, scale: Tensor | None) -> tuple[Any, Any]:
    """Return a matrix [e, O, I] as the package takes it, [e, I, O], and its scales or None."""
    return (w.transpose(1, 2), None) if scale is None else swizzled(w, scale)


def swizzled(codes: Tensor, scale: Tensor) -> tuple[Any, Any]:
    """Return mxfp4 weights [e, in, out] and their scales as the package's tensors.

    codes: [e, O, I / 2] uint8. scale: [e, O, I / 32] uint8, e8m0.
    """
    tensor, layout = _module("tensor"), _module("tensor_details.layout")
    value_layout, value_options = layout.make_default_matmul_mxfp4_w_layout(mx_axis=1)
    scale_layout, scale_options = layout.make_default_matmul_mxfp4_w_scale_layout(
        mx_axis=1, num_warps=8
    )
    spare = -scale.shape[2] % _SCALES_APART
    padded = torch.nn.functional.pad(scale, (0, spare))
    values = tensor.wrap_torch_tensor(codes.transpose(1, 2), dtype=tensor.FP4)
    scales = tensor.wrap_torch_tensor(padded.transpose(1, 2))
    return (
        tensor.convert_layout(values, value_layout, **value_options),
        tensor.convert_layout(scales, scale_layout, **scale_options),
    )


def routing_data(ends: Tensor, rows: int) -> Any:
    """Return the package's `RoutingData` of rows sorted by expert, each with one expert.

    ends: [e] int32, the exclusive end of each expert's rows; rows beyond the last are of none.
    """
    counts = torch.diff(ends, prepend=ends.new_zeros(1))
    data = _metadata(counts, rows)
    return _module("matmul_ogs").RoutingData(None, counts, len(ends), 1, data)


def _metadata(counts: Tensor, rows: int) -> Any:
    """Return which rows are whose, as Triton 3.5's or 3.6's package has it.

    Raises MoEError for a package that has neither.
    """
    for module, function, arguments in (
        ("routing", "compute_expt_data", (counts, len(counts), rows)),
        ("tensor", "make_ragged_tensor_metadata", (counts, rows)),
    ):
        made = getattr(_module(module), function, None)
        if made is not None:
            return made(*arguments)
    raise MoEError(
        "triton_kernels has neither routing.compute_expt_data nor "
        "tensor.make_ragged_tensor_metadata: install the package of Triton 3.5 or 3.6, or vLLM"
    )


def _module(name: str) -> Any:
    """Return a module of the package; None if it does not have it."""
    try:
        return importlib.import_module(f"triton_kernels.{name}")
    except ModuleNotFoundError:
        return None


def _is_hopper(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9
