"""`BaselineSiluAndMul`: the complete MoE layer, one expert at a time, in float32 or float64.

It takes the member's declared `Numerics` and the layout, because both change the correct output: a
rounding before the second quantization moves codes, and each rank quantizes its own columns of the
intermediate. Weights are quantized as in checkpoints, before they are sharded.

It also computes the error that a correct member may have, from the values of the case
(docs/bounds.md derives each term; `result.Answer` has the results).
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, TypeVar

import torch

from moe.activations import ACTIVATIONS
from moe.formats import FORMATS
from moe.reference import formats
from moe.reference.error_propagation import (
    Noisy,
    Scale,
    by_rank,
    dynamic_scale,
    gathered,
    intermediate,
    quantize_noisy,
    rounding_variance,
)
from moe.reference.ownership import holders
from moe.reference.parallel_error import along_itself
from moe.reference.result import Answer, Sums
from moe.spec import LayerSpec, Numerics, resolve

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from moe.activations.base import ActivationTruth

B = TypeVar("B", bound="BaselineSiluAndMul")


class BaselineSiluAndMul:
    """y = sum over k of weight * down(f(gate(x)) * up(x)), plus the shared experts.

    expert(e) returns (w13 [2N, K], w2 [K, N]) in the model dtype, neither sharded nor quantized.
    shared: the same for the shared experts as one wide MLP, or None.
    """

    def __init__(
        self,
        layer_spec: LayerSpec,
        numerics: Numerics,
        expert: Callable[[int], tuple[Tensor, Tensor]],
        shared: tuple[Tensor, Tensor] | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        values: Callable[[int], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        """Store the layer. values: returns cached results of `weights`; None: compute them."""
        self.layer_spec = layer_spec
        self.numerics = numerics
        self.dtype = dtype
        self._expert = expert
        self._shared = shared
        self._values = values
        self.weight_format = FORMATS[layer_spec.scheme.weights]
        self.act_format = FORMATS[layer_spec.scheme.activations]
        self.activation: ActivationTruth = resolve(ACTIVATIONS.row(layer_spec.activation).truth)
        self._model = layer_spec.dtype
        self._latest: tuple[int, tuple[Tensor, Tensor]] | None = None

    def __call__(
        self,
        x: Tensor,
        topk_ids: Tensor,
        topk_weights: Tensor,
        *,
        a1_scale: Tensor | None = None,
        a2_scale: Tensor | None = None,
        keep: Tensor | None = None,
        like: Answer | None = None,
    ) -> Answer:
        """Return the output and its allowed error.

        x: [T, K]; with dynamic per-tensor scales, all tokens that share the member's scale.
        topk_ids: [T, k] int32, -1 = none; rows of only -1 give zeros. topk_weights: [T, k] float32.
        keep: [r] int64 rows whose `Answer.parts` are requested. like: an answer for more tokens,
        whose per-tensor scales are used.
        """
        x = x.to(self.dtype)
        first = like.tensor_scales[0] if like is not None else self._first_scale(x, a1_scale)
        inputs = self.quantize_input(x, first)
        if like is not None:
            second = like.tensor_scales[1]
        else:
            second = self._second_scales(inputs, topk_ids, a2_scale)
        sums = self._empty_sums(x, topk_ids, keep)
        for e in range(self.layer_spec.num_experts):
            rows, slots = (topk_ids == e).nonzero(as_tuple=True)
            if len(rows):
                pairs = (rows, slots, topk_weights[rows, slots].to(self.dtype))
                self._add_expert(sums, e, inputs[rows], pairs, second)
        return dataclasses.replace(self._finish(sums, x), tensor_scales=(first, second))

    def _empty_sums(self, x: Tensor, topk_ids: Tensor, keep: Tensor | None) -> Sums:
        world = self.layer_spec.layout.world_size
        keep = topk_ids.new_empty(0, dtype=torch.int64) if keep is None else keep
        place = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
        place[keep] = torch.arange(len(keep), device=x.device)
        return Sums(
            partial=x.new_zeros((world, *x.shape)),
            parts=x.new_zeros((world, len(keep), topk_ids.shape[1], x.shape[1])),
            place=place,
            variance=x.new_zeros(x.shape[0]),
            flips=x.new_zeros(x.shape[0]),
            along=x.new_zeros(3, x.shape[0]),
            amax2=x.new_zeros(()),
        )

    def remade(self, kind: type[B]) -> B:
        """Return this reference as `kind`, a subclass that overrides some of the steps below."""
        return kind(
            *(self.layer_spec, self.numerics, self._expert, self._shared),
            dtype=self.dtype,
            values=self._values,
        )

    def expert(self, e: int | None) -> tuple[Tensor, Tensor]:
        """Return expert e's matrices before quantization; None: those of the shared experts."""
        assert e is not None or self._shared is not None, "the layer has no shared experts"
        pair = self._shared if e is None else self._expert(e)
        assert pair is not None
        return pair[0].to(self.dtype), pair[1].to(self.dtype)

    def _first_scale(self, x: Tensor, a1_scale: Tensor | None) -> Tensor | None:
        """Return the scale of the input if all tokens share one, else None."""
        if not self.act_format.has_one_scale:
            return None
        return formats.activation_scale(x, self.act_format, a1_scale)

    def quantize_input(self, x: Tensor, scale: Tensor | None) -> Tensor:
        """Return the values of the codes of x [T, K]. scale: [], or None: one per row or group."""
        if self.act_format.grid == "model":
            return x
        if scale is None:
            scale = formats.activation_scale(x, self.act_format, None)
        return formats.quantize(x, scale, self.act_format).values

    def _second_scales(
        self, inputs: Tensor, topk_ids: Tensor, a2_scale: Tensor | None
    ) -> Scale | None:
        """Return each rank's scale [world] of its intermediate if its rows share one, else None."""
        world, fmt = self.layer_spec.layout.world_size, self.act_format
        if not fmt.has_one_scale:
            return None
        zeros = inputs.new_zeros(world)
        if fmt.static:
            assert a2_scale is not None, "a static format needs its calibrated scale"
            return Scale(scale=a2_scale.to(self.dtype).expand(world), doubt=zeros, chance=zeros)
        largest = Scale(scale=zeros, doubt=zeros, chance=zeros)
        for e in range(self.layer_spec.num_experts):
            rows = (topk_ids == e).nonzero(as_tuple=True)[0]
            if len(rows):
                ranks, h = self._shards(e, inputs[rows])
                largest = largest.or_larger(dynamic_scale(h, fmt), ranks)
        return largest

    def _shards(self, e: int, inputs: Tensor) -> tuple[slice, Noisy]:
        """Return the ranks that compute expert e, and its intermediate [w, R, c] by rank."""
        w13, _ = self.weights(e)
        ranks, columns = holders(self.layer_spec, e)
        return ranks, self.first_product(inputs, w13).by_rank(columns)

    def first_product(self, inputs: Tensor, w13: Tensor) -> Noisy:
        """Return f(gate) * up [R, N] of the rows [R, K] of one expert with w13 [2N, K]."""
        return intermediate(inputs, w13, self.numerics, self._model, self.activation)

    def weights(self, e: int) -> tuple[Tensor, Tensor]:
        """Return the values of the codes of expert e's matrices; the latest result is cached."""
        if self._values is not None:
            return self._values(e)
        if self._latest is None or self._latest[0] != e:
            w13, w2 = (w.to(self.dtype) for w in self._expert(e))
            fmt = self.weight_format
            values = formats.weight_values(w13, fmt), formats.weight_values(w2, fmt)
            self._latest = (e, values)
        return self._latest[1]

    def _add_expert(
        self,
        sums: Sums,
        e: int,
        inputs: Tensor,
        pairs: tuple[Tensor, Tensor, Tensor],
        second: Scale | None,
    ) -> None:
        """Add expert e's output to the partial sums of the ranks that compute it.

        pairs: [R] rows, their slots and their router weights.
        """
        ranks, h = self._shards(e, inputs)
        sums.amax2 = torch.maximum(sums.amax2, h.value.abs().amax())
        h = self.quantize_intermediate(h, None if second is None else second.of(ranks))
        self._add_shards(sums, e, pairs, h)

    def quantize_intermediate(self, h: Noisy, shared: Scale | None) -> Noisy:
        """Quantize each rank's columns [w, R, c]. shared: scales [w, 1, 1], or None: dynamic."""
        fmt = self.act_format
        if fmt.grid == "model":
            return h
        return quantize_noisy(h, shared or dynamic_scale(h, fmt), fmt)

    def _add_shards(
        self, sums: Sums, e: int, pairs: tuple[Tensor, Tensor, Tensor], h: Noisy
    ) -> None:
        """Add GEMM2 of expert e on the columns [w, R, c] of each rank that holds some."""
        rows, slots, weight = pairs
        ranks, columns = holders(self.layer_spec, e)
        w2 = by_rank(self.weights(e)[1], columns)  # [w, K, c]
        y = h.value @ w2.transpose(1, 2)
        if sums.parts.shape[1]:
            place = sums.place[rows]
            recorded = place >= 0
            sums.parts[ranks, place[recorded], slots[recorded]] = y[:, recorded]
        sums.partial[ranks].index_add_(1, rows, weight[:, None] * y)
        self._add_noise(sums, (rows, weight), h, w2, y)

    def _add_noise(
        self, sums: Sums, pairs: tuple[Tensor, Tensor], h: Noisy, w2: Tensor, y: Tensor
    ) -> None:
        """Add the allowed error of y [w, R, K] = h [w, R, c] @ w2 [w, K, c] to its rows."""
        rows, weight = pairs
        power = w2.square().sum(dim=1)[:, :, None]  # squared length of y's change per unit of h
        noise = ((h.variance + h.jumps) @ power)[:, :, 0]
        length = y.square().sum(dim=2)
        noise = noise + gathered(self.numerics, h.value.shape[2]) * length
        if self.numerics.expert == "model":
            noise = noise + rounding_variance(y, self._model).sum(dim=2)
        flips = (h.doubt.square() @ power)[:, :, 0]
        sums.variance.index_add_(0, rows, weight.square() * noise.sum(dim=0))
        sums.flips.index_add_(0, rows, weight.square() * flips.sum(dim=0))
        along = along_itself(h, power, length, self._lost(h.value.shape[2])) * weight.square()
        along[:2] *= weight.square()
        sums.along.index_add_(1, rows, along)

    def _lost(self, terms: int) -> float:
        """Return the relative error of truncated sums, which all lose in the same direction."""
        first = gathered(self.numerics, self.layer_spec.hidden)
        return 2 * math.sqrt(first) + math.sqrt(gathered(self.numerics, terms))

    def _finish(self, sums: Sums, x: Tensor) -> Answer:
        """Sum over the ranks and add the shared experts, with the roundings of these sums."""
        out, variance, shared = sums.partial.sum(dim=0), sums.variance, None
        if self._shared is not None:
            shared, noise, along = self._shared_output(x)
            out = out + shared
            variance = variance + noise
            sums.along += along
        return Answer(
            out=out,
            variance=variance + self._sum_roundings(sums.partial, out),
            flips=sums.flips,
            along=sums.along,
            amax1=x.abs().amax() if x.numel() else x.new_zeros(()),
            amax2=sums.amax2,
            parts=sums.parts,
            shared=shared,
        )

    def _sum_roundings(self, partial: Tensor, out: Tensor) -> Tensor:
        """Return the variance [T] of rounding the partial sums and each addition of them."""
        rounded = rounding_variance(partial, self._model).sum(dim=0)
        if self.numerics.combine == "model":
            rounded = rounded * self.layer_spec.top_k
        adds = self.layer_spec.layout.world_size - 1 + (self._shared is not None)
        largest = torch.maximum(out.abs(), partial.abs().amax(dim=0))
        rounded = rounded + adds * rounding_variance(largest, self._model)
        return rounded.sum(dim=1)

    def _shared_output(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the output of the shared experts and its error.

        They are not quantized; each step is rounded to the model dtype. Returns [T, K], the
        variance [T], and the error along the output [3, T], see `Answer.along`.
        """
        assert self._shared is not None
        w13, w2 = (w.to(self.dtype) for w in self._shared)
        numerics = Numerics(gemm1="model", activation="model", accumulation=2.0**-22)
        h = intermediate(x, w13, numerics, self._model, self.activation)
        y = h.value @ w2.T
        shards = self.layer_spec.layout.tp_size
        power = w2.square().sum(dim=0)
        noise = (h.variance + h.jumps) @ power
        length = y.square().sum(dim=1)
        noise = noise + gathered(numerics, h.value.shape[1]) * length
        noise = noise + (1 + shards) * rounding_variance(y, self._model).sum(dim=1)
        unsharded = h.by_rank([range(h.value.shape[1])])
        return y, noise, along_itself(unsharded, power[None, :, None], length[None], 0.0)
