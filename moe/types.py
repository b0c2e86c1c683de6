"""Define the tensor bundles that pass between the stages of a layer, and the legend of shapes.

Shapes in all docstrings of `moe`:

    T   tokens on this rank                 G   tokens gathered from the ranks of the gather group
    K   hidden size                         R   flat (token, slot) rows, R = T * k or G * k
    N   intermediate size                   n   intermediate columns on this rank
    E   global (logical) experts            e   experts on this rank
    P   physical experts                    k   experts per token, top-k
    O, I  output and input size of any weight matrix

Weights are stored [gate; up] along 2N; a backend that needs another order converts them in its own
`prepare_weights`. `topk_ids == -1` marks a padding row or slot everywhere: it does not affect other
rows, and the output of a padding row is undefined.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from moe.formats.model.spec import MODEL
from moe.formats.quant_tensor import QuantTensor

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from moe.formats.format import Format

TORCH_DTYPE = {"bf16": torch.bfloat16, "fp16": torch.float16, "f32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class ExpertWeights:
    """Hold the weights of some experts, quantized or not; full, or one rank's shard.

    w13: [e, 2n, K] weights or codes, [gate; up]; [e, n, K] if the activation is not gated.
    w2: [e, K, n] weights or codes. Packed codes have K / 2 and n / 2 bytes in place of K and n.
    b13, b2: [e, 2n] (or [e, n]) and [e, K] biases of the two products, in the layer's dtype, or
        None. They are added in float32: b13 before the activation, b2 once to an expert's output,
        before its router weight. Where ranks share an expert's columns, b2 is zeros on all but the
        first.
    w13_scale, w2_scale: of the format's scale dtype, value = code * scale, or None for unquantized
        weights. One per block of the format: per tensor [e]; per channel [e, 2n] and [e, K]; per
        block [e, ceil(2n/128), ceil(K/128)] and [e, ceil(K/128), ceil(n/128)]; per group
        [e, 2n, K/group] and [e, K, n/group].
    w13_global, w2_global: [e] float32 global scales, and w13_zero, w2_zero: uint8 zero points, one
        per scale; None if the format has none. See `moe.formats.quant_tensor`.
    a1_scale, a2_scale: [] float32, static per-tensor scales (or global scales) of the inputs of the
        first and second product, or None.
    format: of w13 and w2. `gate_up` and `down` return each matrix with its scale.
    """

    w13: Tensor
    w2: Tensor
    b13: Tensor | None = None
    b2: Tensor | None = None
    w13_scale: Tensor | None = None
    w2_scale: Tensor | None = None
    a1_scale: Tensor | None = None
    a2_scale: Tensor | None = None
    format: Format = MODEL
    w13_global: Tensor | None = None
    w2_global: Tensor | None = None
    w13_zero: Tensor | None = None
    w2_zero: Tensor | None = None

    @classmethod
    def of(cls, gate_up: QuantTensor, down: QuantTensor) -> ExpertWeights:
        """Return the weights of two tensors of one format, [e, 2n, K] and [e, K, n]."""
        return cls(
            w13=gate_up.codes,
            w13_scale=gate_up.scale,
            w13_global=gate_up.global_scale,
            w13_zero=gate_up.zero_point,
            w2=down.codes,
            w2_scale=down.scale,
            w2_global=down.global_scale,
            w2_zero=down.zero_point,
            format=gate_up.format,
        )

    @property
    def gate_up(self) -> QuantTensor:
        """Return w13 with its scales."""
        return self._tensor(self.w13, self.w13_scale, self.w13_global, self.w13_zero)

    @property
    def down(self) -> QuantTensor:
        """Return w2 with its scales."""
        return self._tensor(self.w2, self.w2_scale, self.w2_global, self.w2_zero)

    def _tensor(
        self, codes: Tensor, scale: Tensor | None, total: Tensor | None, zero: Tensor | None
    ) -> QuantTensor:
        return QuantTensor(
            codes=codes, scale=scale, global_scale=total, zero_point=zero, format=self.format
        )

    @property
    def by_expert(self) -> dict[str, Tensor]:
        """Return all tensors that have a part for each expert, by name."""
        shared = ("a1_scale", "a2_scale")
        named = vars(self).items()
        return {n: t for n, t in named if isinstance(t, torch.Tensor) and n not in shared}

    def replace(self, **changes: Any) -> ExpertWeights:
        """Return a copy with these fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True, kw_only=True)
class Activations(QuantTensor):
    """Hold rows of activations, quantized or not.

    codes: [T, K] values or codes, or [T, K/2] packed ones. scale: value = code * scale; by the
    format None, [] per tensor, [T, 1] per token, or [T, ceil(K/block)] per group. global_scale: []
    float32, if the format has one.
    """


@dataclass(frozen=True, kw_only=True)
class Routing:
    """Hold the experts of each token and their weights.

    topk_ids: [T, k] int32 expert ids, global unless stated otherwise; -1 = none.
    topk_weights: [T, k] float32. adapters: [T] int32 number of each token's low-rank adapter, -1 =
    none; None in a layer without adapters.
    """

    topk_ids: Tensor
    topk_weights: Tensor
    adapters: Tensor | None = None

    @classmethod
    def of_logits(cls, logits: Tensor) -> Routing:
        """Return router logits [T, E] in the place of weights, for backends that route themselves.

        topk_ids is [T, 1], 0 for each token: only the -1 of padding rows has a meaning.
        """
        ids = torch.zeros((len(logits), 1), dtype=torch.int32, device=logits.device)
        return cls(topk_ids=ids, topk_weights=logits)

    @classmethod
    def of_no_tokens(cls, logits: Tensor, top_k: int) -> Routing:
        """Return the routing [0, k] of logits [0, E], for routers that take no empty call."""
        shape, device = (0, top_k), logits.device
        ids = torch.empty(shape, dtype=torch.int32, device=device)
        return cls(topk_ids=ids, topk_weights=torch.empty(shape, device=device))


@dataclass(frozen=True, kw_only=True)
class Entered:
    """Hold what the routed experts get. x: [T, K], or [T, L] in a latent layer. routing: [T, k].

    shared: returns what the shared experts add, [T, K]; None if the layer has none, or fused ones.
    """

    x: Tensor
    routing: Routing
    shared: Callable[[], Tensor] | None


@dataclass(frozen=True, kw_only=True)
class Dispatched:
    """Hold the tokens that `prepare` gathered for the experts of this rank.

    In the dispatch format `standard` these are contiguous rows in any order. A monolithic backend
    gets `Routing.of_logits` as its routing. In the format `batched` they are blocks of C rows, one
    for each local expert, G = e * C, with one slot each: rows that are not in use are undefined and
    have the id -1.

    x: [G, K] activations of the gathered rows, with their scales.
    routing: [G, k], -1 for padding rows; global ids from `prepare`, local ids for the experts.
    counts: tokens of each rank of the gather group, without padding.
    tokens: [G] int32 number of each row's token among the tokens of all ranks of the gather group,
        in rank order; -1 for padding. None: in that order, padded to the longest rank or not.
    slots: [G] int32 slot of the token, if each row has one slot only; else None.
    block_counts: [e] int32 rows in use of each block, the first ones; None if there are no blocks.
    state: what the member's `finalize` needs of this call beside all this.
    error: what failed on this rank after the ranks agreed on the call, or None. The rest then has
        the right shapes and only serves to take part in `finalize`, see `abandon`.
    """

    x: Activations
    routing: Routing
    counts: tuple[int, ...]
    tokens: Tensor | None = None
    slots: Tensor | None = None
    block_counts: Tensor | None = None
    state: Any = None
    error: Exception | None = None


@dataclass(frozen=True, kw_only=True)
class Batches:
    """Hold the rows of each local expert in a block of C rows: the dispatch format `batched`.

    x: codes [e, C, K]; scale [] or None as in `Activations`, or [e, C, groups] for row scales.
    counts: [e] int32 rows in use of each block, the first ones; other rows are undefined.
    slots: [e, C] int32 flat (token, slot) number of each row, -1 for rows that are not in use.
    adapters: [e, C] int32 number of each row's low-rank adapter, -1 = none or not in use; None if
        the layer has no adapters.
    """

    x: QuantTensor
    counts: Tensor
    slots: Tensor
    adapters: Tensor | None = None
