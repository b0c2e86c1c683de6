"""Define the base class of quantization methods, and functions that its members share.

`value = code * scale`, with scales in float32. A scale is `amax * (1 / max)`, one float32 product;
a code is `round(clamp(x / scale))` with IEEE division.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch

from moe.byte_views import joined
from moe.formats.quant_tensor import dequantize
from moe.kernels import quantize
from moe.kernels.launch import runs_kernels
from moe.kernels.quantize_weights import moe_quantize_weights, moe_quantize_weights_torch
from moe.quant.padding import pad_weights
from moe.roundup import rounded_up
from moe.types import ExpertWeights

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format
    from moe.formats.quant_tensor import QuantTensor
    from moe.needs import Needs
    from moe.spec import LayerSpec
    from moe.types import Activations


class QuantMethod(ABC):
    """Quantize unsharded weights, the layer's input, and the intermediate of a rank's shard."""

    # Whether the scale of an input row depends on that row only, or is static. Then the input is
    # quantized before it is sent; otherwise the scale is computed over the gathered rows.
    input_scale_is_local: ClassVar[bool] = True

    @abstractmethod
    def quantize_weights(self, w13: Tensor, w2: Tensor) -> ExpertWeights:
        """Return quantized weights. w13: [e, 2N, K], w2: [e, K, N] model dtype, not sharded.

        w13 is [e, N, K] if the activation is not gated. Every tensor has a part for each expert,
        which depends on that expert only: a large layer is quantized a few experts at a time.
        """

    @abstractmethod
    def quantize_input(self, x: Tensor, a1_scale: Tensor | None) -> Activations:
        """Return quantized rows. x: [T, K] model dtype. a1_scale: [] float32 if static, or None."""

    def quantize_intermediate(self, h: Tensor, a2_scale: Tensor | None) -> Activations:
        """Return quantized rows, by default as `quantize_input` does.

        h: [R, n] this rank's columns. a2_scale: [] float32 for static schemes, otherwise None.
        """
        return self.quantize_input(h, a2_scale)

    def maybe_roundup_sizes(
        self, layer_spec: LayerSpec, needs: Needs, features: frozenset[str]
    ) -> LayerSpec:
        """Return the layer with the padded sizes of its weights; itself if nothing is padded.

        needs: of the experts row. features: of the platform.
        """
        return rounded_up(layer_spec, needs, features)

    def pad(self, weights: ExpertWeights, hidden: int, shard: int) -> ExpertWeights:
        """Return a rank's shard with zeros up to these sizes; gate and up are each padded.

        Raises MoEError for a block of scales that reaches from gate into up, which zeros between
        them would tear apart, and for zero points of a partly padded block.
        """
        return pad_weights(weights, hidden, shard)

    def shard(self, weights: ExpertWeights, columns: range, intermediate: int) -> ExpertWeights:
        """Return the part of `weights` for these intermediate columns, of gate and of any up.

        intermediate: N, the full size. Raises ValueError if a scale block would be cut.
        """
        if len(columns) == intermediate:  # not sharded: no block is cut, wherever the seam is
            return weights
        packing = weights.format.packing
        codes = _blocks_of(columns, intermediate, packing)
        return weights.replace(
            w13=_rows_of(weights.w13, columns, intermediate),
            w2=weights.w2[:, :, codes.start : codes.stop].contiguous(),
            **_shard_blocks(weights, columns, intermediate),
            **_shard_biases(weights, columns, intermediate),
        )


def _rows_of(t: Tensor, columns: range, intermediate: int) -> Tensor:
    """Return the rows of t, [e, 2N, ...] or [e, N, ...], for these columns: gate's, then up's."""
    part = slice(columns.start, columns.stop)
    halves = [half[:, part] for half in torch.split(t, intermediate, dim=1)]
    return joined(halves, dim=1).contiguous()


def _shard_biases(
    weights: ExpertWeights, columns: range, intermediate: int
) -> dict[str, Tensor | None]:
    """Return the biases of a shard by name: b2 on the rank that holds the first column only."""
    b13, b2 = weights.b13, weights.b2
    if b13 is None or b2 is None:
        return {}
    is_first = columns.start == 0
    return {
        "b13": _rows_of(b13, columns, intermediate),
        "b2": b2 if is_first else torch.zeros_like(b2),
    }


def _shard_blocks(
    weights: ExpertWeights, columns: range, intermediate: int
) -> dict[str, Tensor | None]:
    """Return the scales and zero points that differ from the full weights', by name, for a shard.

    Raises ValueError if a block straddles the shard or the seam between gate and up.
    """
    down, across = weights.format.block or (None, None)
    changes: dict[str, Tensor | None] = {}
    for name in ("scale", "zero"):
        rows, inner = getattr(weights, f"w13_{name}"), getattr(weights, f"w2_{name}")
        if down is not None and rows is not None:
            blocks = _blocks_of(columns, intermediate, down)
            changes[f"w13_{name}"] = _rows_of(rows, blocks, intermediate // down)
        if across is not None and inner is not None:
            blocks = _blocks_of(columns, intermediate, across)
            changes[f"w2_{name}"] = inner[..., blocks.start : blocks.stop].contiguous()
    return changes


def _blocks_of(columns: range, intermediate: int, block: int) -> range:
    """Return the blocks that these columns consist of. Raises ValueError if one would be cut."""
    edges = (columns.start, columns.stop, intermediate)
    if any(edge % block for edge in edges):
        rule = "choose sizes whose shards are multiples of it"
        raise ValueError(f"columns {columns} of {intermediate} cut a block of {block}; {rule}")
    return range(columns.start // block, columns.stop // block)


def quantize_tensor(x: Tensor, scale: Tensor, kind: str) -> Tensor:
    """Return codes, [T, K]. scale: [] float32. Uses the kernel on a GPU, otherwise its twin."""
    do = quantize.quantize_tensor if runs_kernels(x.device) else quantize.quantize_tensor_torch
    return do(x, scale, kind)


def quantize_rows(x: Tensor, kind: str, group: int | None) -> tuple[Tensor, Tensor]:
    """Return codes [T, K] and float32 scales, [T, 1], or [T, ceil(K/group)] per `group` columns."""
    do = quantize.quantize_rows if runs_kernels(x.device) else quantize.quantize_rows_torch
    return do(x, kind, group)


def quantize_pair(w13: Tensor, w2: Tensor, fmt: Format) -> ExpertWeights:
    """Return quantized weights of experts, by kernels on a GPU, otherwise by their twins.

    w13: [e, 2N, K], w2: [e, K, N].
    """
    do = moe_quantize_weights if runs_kernels(w13.device) else moe_quantize_weights_torch
    return ExpertWeights.of(do(w13, fmt), do(w2, fmt))


def dequantize_weight(w: QuantTensor) -> Tensor:
    """Return the float32 values of [e, O, I] or [O, I] weights."""
    return dequantize(w)


def dequantize_activations(x: Activations) -> Tensor:
    """Return the float32 values of [T, K] activations."""
    return dequantize(x)
