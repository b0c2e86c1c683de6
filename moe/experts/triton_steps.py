"""Share what the Triton backends do beside their products: weights, activation, second codes.

Activation and codes of the second product come from one kernel, where a scale belongs to a row or
is known beforehand. While stages are recorded they come from two, with the same bits, so that what
lies between them can be judged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe import intermediates
from moe.experts.base import ExpertsBase, contiguous_weights
from moe.formats import FORMATS
from moe.kernels.activation import activate, activate_batched
from moe.kernels.activation_quant import activate_quantize
from moe.kernels.launch import shared_bytes
from moe.kernels.products import prepared
from moe.kernels.quantize import quantize_rows, quantize_tensor, tensor_amax, tensor_scale
from moe.kernels.quantize_groups import global_scale, quantize_groups
from moe.kernels.scales import code_kind_of
from moe.kernels.tactics import forced_tile
from moe.spec import DEFAULT_TACTIC
from moe.types import Activations

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from moe.formats.format import Format
    from moe.kernels.tiles import Tile
    from moe.types import ExpertWeights


class TritonSteps(ExpertsBase):
    """Hold weights as the kernels read them, and compute what lies between the products."""

    @property
    def format(self) -> Format:
        """Return the number format of the activations."""
        return FORMATS[self.layer_spec.scheme.activations]

    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Keep contiguous weights, arranged for the kernels if these decode them, and the tile.

        Raises MoEError if a static scheme has no `a2_scale`, and for codes that cannot be decoded.
        """
        self.weights = contiguous_weights(weights, self.format)
        self.gate_up, self.down = prepared(self.weights.gate_up), prepared(self.weights.down)
        self.tile = self._tile(weights.w13.device)

    def _tile(self, device: torch.device) -> Tile | None:
        """Return the tile of the layer's tactic; None: picked for each product."""
        if self.layer_spec.tactic == DEFAULT_TACTIC:
            return None
        return forced_tile(self.layer_spec, shared_bytes(device))

    @property
    def expert_tensors(self) -> dict[str, Tensor]:
        """Return the tensors as the kernels read them, and the biases."""
        parts = ("codes", "scale", "zero_point", "global_scale")
        pairs = {"w13": self.gate_up, "w2": self.down}
        listed = {f"{n}.{part}": getattr(w, part) for n, w in pairs.items() for part in parts}
        listed |= {"b13": self.weights.b13, "b2": self.weights.b2}
        return {name: tensor for name, tensor in listed.items() if tensor is not None}

    def activated(
        self, gate_up: Tensor, ids: Tensor, counts: Tensor | None = None
    ) -> tuple[Tensor | None, Activations]:
        """Return the activation of each row, None if it was not stored, and its codes.

        gate_up: [R, 2n], or [e, C, 2n] with counts [e] of the rows in use. ids: R int32 of any
        shape, -1 for rows that are not in use; a dynamic scale over all rows ignores them. The
        results are [R, n].
        """
        function = self.layer_spec.activation
        if self._is_fused():
            return None, self._fused(gate_up, ids, counts)
        if counts is None:
            h = activate(gate_up, ids, activation=function)
        else:
            h = activate_batched(gate_up, counts, activation=function).flatten(0, 1)
        return h, self.quantized(h, ids)

    def _is_fused(self) -> bool:
        """Return whether one kernel activates and quantizes."""
        fmt = self.format
        is_known = fmt.static or not fmt.has_one_scale
        has_codes = fmt.block is not None and fmt.scale_dtype == "f32"
        return has_codes and is_known and not intermediates.is_recording()

    def _fused(self, gate_up: Tensor, ids: Tensor, counts: Tensor | None) -> Activations:
        fmt = self.format
        assert fmt.block is not None
        function, kind, group = self.layer_spec.activation, code_kind_of(fmt), fmt.block[1]
        given = self.weights.a2_scale if fmt.has_one_scale else None
        codes, scale = activate_quantize(
            *(gate_up, None if counts is not None else ids),
            counts=counts,
            activation=function,
            kind=kind,
            group=group,
            scale=given,
            dtype=self.dtype,
        )
        if counts is not None:
            codes = codes.flatten(0, 1)
            scale = scale if given is not None else scale.flatten(0, 1)
        return Activations(codes=codes, scale=scale, format=fmt)

    def quantized(self, h: Tensor, ids: Tensor) -> Activations:
        """Return what the method's `quantize_intermediate` does, bit for bit, from kernels.

        h: [R, n]. ids: as in `activated`.
        """
        fmt = self.format
        if fmt.block is None:
            return Activations(codes=h)
        if fmt.scale_dtype != "f32":
            return self._in_groups(h, ids)
        kind = code_kind_of(fmt)
        if fmt.has_one_scale:
            calibrated = self.weights.a2_scale if fmt.static else None
            scale = calibrated if calibrated is not None else tensor_scale(h, ids, kind)
            codes = quantize_tensor(h, scale, kind)
        else:
            codes, scale = quantize_rows(h, kind, fmt.block[1])
        return Activations(codes=codes, scale=scale, format=fmt)

    def _in_groups(self, h: Tensor, ids: Tensor) -> Activations:
        """Return h in a format whose scales belong to groups; see `quantized`."""
        fmt, total = self.format, None
        if fmt.global_scale:
            total = self.weights.a2_scale if fmt.static else None
            total = global_scale(tensor_amax(h, ids), fmt) if total is None else total
        rows = quantize_groups(h, fmt, total)
        return Activations(codes=rows.codes, scale=rows.scale, global_scale=total, format=fmt)
