"""Tensor bundles that pass between the stages of a layer, and the shape legend.

Legend (suffix of a tensor's name): T tokens on this rank (or gathered), K hidden size, N
intermediate size, E global experts, e experts on this rank, k experts a token is routed to,
R rows = (token, expert) pairs, n intermediate size on this rank.

Weights are stored [gate; up] along 2N; a backend that wants another order converts them in its
own `prepare_weights`. `topk_ids == -1` marks a padding row or slot everywhere: it takes part in
nothing, and what the output holds for a row of only -1 is undefined.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from moe.formats.model.spec import MODEL
from moe.formats.quant_tensor import QuantTensor

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format

TORCH_DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16, "f32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class ExpertWeights:
    """Weights of some experts, plain or quantized, whole or one rank's shard.

    w13: [e, 2n, K] weights or codes, [gate; up].      w2: [e, K, n] weights or codes.
    w13_scale, w2_scale: float32 multipliers that turn codes into values, or None:
        one for each of the format's blocks, such as per tensor [e]; per channel [e, 2n] and
        [e, K]; per block [e, ceil(2n/128), ceil(K/128)] and [e, ceil(K/128), ceil(n/128)].
    a1_scale, a2_scale: [] float32, the static per-tensor scales of the two activations, or None.
    format: of both matrices; `gate_up` and `down` give each with its scale.
    """

    w13: Tensor
    w2: Tensor
    w13_scale: Tensor | None = None
    w2_scale: Tensor | None = None
    a1_scale: Tensor | None = None
    a2_scale: Tensor | None = None
    format: Format = MODEL

    @property
    def gate_up(self) -> QuantTensor:
        """w13 with its scale."""
        return QuantTensor(codes=self.w13, scale=self.w13_scale, format=self.format)

    @property
    def down(self) -> QuantTensor:
        """w2 with its scale."""
        return QuantTensor(codes=self.w2, scale=self.w2_scale, format=self.format)

    def replace(self, **changes: Any) -> ExpertWeights:
        return replace(self, **changes)


@dataclass(frozen=True, kw_only=True)
class Activations(QuantTensor):
    """Rows of activations, plain or quantized.

    codes: [T, K] values or codes. scale, as the format says: None; [] float32 per tensor;
    [T, 1] float32 per token; [T, ceil(K/block)] per group.
    """


@dataclass(frozen=True, kw_only=True)
class Routing:
    """topk_ids: [T, k] int32 global expert ids, -1 = none. topk_weights: [T, k] float32."""

    topk_ids: Tensor
    topk_weights: Tensor


@dataclass(frozen=True, kw_only=True)
class Dispatched:
    """What `prepare` hands to the experts: tokens of all ranks whose experts may be here.

    This is the dispatch format `standard`: contiguous rows in any order.

    x: activations of the G gathered rows, with their scales where they have some.
    routing: theirs, -1 for padding rows; global ids from `prepare`, local ones for the experts.
    counts: rows of each rank of the gather group, without padding; finalize needs them.
    """

    x: Activations
    routing: Routing
    counts: tuple[int, ...]
