"""`BaselineSiluAndMul`: the whole MoE layer, one expert at a time, in float32 (or float64).

It takes the member's declared `Numerics` and the layout, because both change what a *right*
answer is: a rounding before the second quantization moves codes, and each rank quantizes its
own columns of the intermediate. Weights are quantized whole, as checkpoints are, then sharded.

Beside the output it works out how far a right member may be from it, from the case's own
numbers (docs/bounds.md derives each term); answer.py says in what terms.
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
from moe.spec import Numerics, Problem, resolve

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from moe.activations.base import ActivationTruth

B = TypeVar("B", bound="BaselineSiluAndMul")


class BaselineSiluAndMul:
    """y = sum over k of weight * down(f(gate(x)) * up(x)), plus the shared experts.

    expert(e) -> (w13 [2N, K], w2 [K, N]) in the model dtype, whole, before quantization; shared
    is the same for the shared experts as one wide MLP, or None.
    """

    def __init__(
        self,
        problem: Problem,
        numerics: Numerics,
        expert: Callable[[int], tuple[Tensor, Tensor]],
        shared: tuple[Tensor, Tensor] | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        values: Callable[[int], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        """values: what `weights` gives, from somebody who keeps it; None: worked out each time."""
        self.problem = problem
        self.numerics = numerics
        self.dtype = dtype
        self._expert = expert
        self._shared = shared
        self._values = values
        self.weight_format = FORMATS[problem.scheme.weights]
        self.act_format = FORMATS[problem.scheme.activations]
        self.activation: ActivationTruth = resolve(ACTIVATIONS.row(problem.activation).truth)
        self._model = problem.dtype
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
        """x: [T, K]; topk_ids: [T, k] int32, -1 = none; topk_weights: [T, k] float32.

        With dynamic per-tensor scales, x must hold every token that the member sees together.
        Rows of only -1 come out as zeros. keep: [r] int64 rows whose parts are wanted.
        like: an answer for more tokens, whose per-tensor scales are used again.
        """
        x = x.to(self.dtype)
        first = like.tensor_scales[0] if like is not None else self._first_scale(x, a1_scale)
        inputs = self.quantize_input(x, first)
        if like is not None:
            second = like.tensor_scales[1]
        else:
            second = self._second_scales(inputs, topk_ids, a2_scale)
        world = self.problem.layout.world_size
        keep = topk_ids.new_empty(0, dtype=torch.int64) if keep is None else keep
        place = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
        place[keep] = torch.arange(len(keep), device=x.device)
        sums = Sums(
            partial=x.new_zeros((world, *x.shape)),
            parts=x.new_zeros((world, len(keep), topk_ids.shape[1], x.shape[1])),
            place=place,
            variance=x.new_zeros(x.shape[0]),
            flips=x.new_zeros(x.shape[0]),
            along=x.new_zeros(3, x.shape[0]),
            amax2=x.new_zeros(()),
        )
        for e in range(self.problem.num_experts):
            rows, slots = (topk_ids == e).nonzero(as_tuple=True)
            if len(rows):
                pairs = (rows, slots, topk_weights[rows, slots].to(self.dtype))
                self._add_expert(sums, e, inputs[rows], pairs, second)
        return dataclasses.replace(self._finish(sums, x), tensor_scales=(first, second))

    def remade(self, kind: type[B]) -> B:
        """A variant: a subclass that overrides some of the steps below, with all else alike."""
        return kind(
            *(self.problem, self.numerics, self._expert, self._shared),
            dtype=self.dtype,
            values=self._values,
        )

    def expert(self, e: int | None) -> tuple[Tensor, Tensor]:
        """Expert e's matrices before quantization; None: those of the shared experts."""
        assert e is not None or self._shared is not None, "the layer has no shared experts"
        pair = self._shared if e is None else self._expert(e)
        assert pair is not None
        return pair[0].to(self.dtype), pair[1].to(self.dtype)

    def _first_scale(self, x: Tensor, a1_scale: Tensor | None) -> Tensor | None:
        """The input's scale, where one serves all tokens."""
        if not self.act_format.has_one_scale:
            return None
        return formats.activation_scale(x, self.act_format, a1_scale)

    def quantize_input(self, x: Tensor, scale: Tensor | None) -> Tensor:
        """[T, K] -> the values of its codes. scale: [], or None: one per row or group."""
        if self.act_format.grid == "model":
            return x
        if scale is None:
            scale = formats.activation_scale(x, self.act_format, None)
        return formats.quantize(x, scale, self.act_format).values

    def _second_scales(
        self, inputs: Tensor, topk_ids: Tensor, a2_scale: Tensor | None
    ) -> Scale | None:
        """[world] each rank's scale of the intermediate, where one serves all rows of the rank."""
        world, fmt = self.problem.layout.world_size, self.act_format
        if not fmt.has_one_scale:
            return None
        zeros = inputs.new_zeros(world)
        if fmt.static:
            assert a2_scale is not None, "a static format needs its calibrated scale"
            return Scale(scale=a2_scale.to(self.dtype).expand(world), doubt=zeros, chance=zeros)
        largest = Scale(scale=zeros, doubt=zeros, chance=zeros)
        for e in range(self.problem.num_experts):
            rows = (topk_ids == e).nonzero(as_tuple=True)[0]
            if len(rows):
                ranks, h = self._shards(e, inputs[rows])
                largest = largest.or_larger(dynamic_scale(h, fmt), ranks)
        return largest

    def _shards(self, e: int, inputs: Tensor) -> tuple[slice, Noisy]:
        """The ranks that compute expert e, and its intermediate [w, R, c] as each has it."""
        w13, _ = self.weights(e)
        ranks, columns = holders(self.problem, e)
        return ranks, self.first_product(inputs, w13).by_rank(columns)

    def first_product(self, inputs: Tensor, w13: Tensor) -> Noisy:
        """[R, K] rows of one expert, w13 [2N, K] -> [R, N] f(gate) * up."""
        return intermediate(inputs, w13, self.numerics, self._model, self.activation)

    def weights(self, e: int) -> tuple[Tensor, Tensor]:
        """Expert e's matrices as the values that their codes stand for; the latest is kept."""
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
        """Add expert e's share to the partial sums of the ranks that compute it.

        pairs: [R] rows, their slots and their router weights.
        """
        ranks, h = self._shards(e, inputs)
        sums.amax2 = torch.maximum(sums.amax2, h.value.abs().amax())
        h = self.quantize_intermediate(h, None if second is None else second.of(ranks))
        self._add_shards(sums, e, pairs, h)

    def quantize_intermediate(self, h: Noisy, shared: Scale | None) -> Noisy:
        """The second quantization of each rank's columns [w, R, c]; shared: [w, 1, 1], if given."""
        fmt = self.act_format
        if fmt.grid == "model":
            return h
        return quantize_noisy(h, shared or dynamic_scale(h, fmt), fmt)

    def _add_shards(
        self, sums: Sums, e: int, pairs: tuple[Tensor, Tensor, Tensor], h: Noisy
    ) -> None:
        """GEMM2 of expert e on the columns [w, R, c] of each rank that holds some."""
        rows, slots, weight = pairs
        ranks, columns = holders(self.problem, e)
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
        """What may be wrong with a right y [w, R, K] = h [w, R, c] @ w2 [w, K, c], by rows."""
        rows, weight = pairs
        power = w2.square().sum(dim=1)[:, :, None]  # squared length of what one unit of h moves
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
        """What sums that are cut off, not rounded, may all lose in one direction, relative."""
        first = gathered(self.numerics, self.problem.hidden)
        return 2 * math.sqrt(first) + math.sqrt(gathered(self.numerics, terms))

    def _finish(self, sums: Sums, x: Tensor) -> Answer:
        """Add up the ranks and the shared experts, and the roundings of doing so."""
        routed = sums.partial.sum(dim=0)
        variance = sums.variance
        rounded = rounding_variance(sums.partial, self._model).sum(dim=0)
        if self.numerics.combine == "model":
            rounded = rounded * self.problem.top_k
        out, shared = routed, None
        if self._shared is not None:
            shared, noise, along = self._shared_output(x)
            out = routed + shared
            variance = variance + noise
            sums.along += along
        adds = self.problem.layout.world_size - 1 + (self._shared is not None)
        largest = torch.maximum(out.abs(), sums.partial.abs().amax(dim=0))
        rounded = rounded + adds * rounding_variance(largest, self._model)
        return Answer(
            out=out,
            variance=variance + rounded.sum(dim=1),
            flips=sums.flips,
            along=sums.along,
            amax1=x.abs().amax() if x.numel() else x.new_zeros(()),
            amax2=sums.amax2,
            parts=sums.parts,
            shared=shared,
        )

    def _shared_output(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The shared experts, unquantized and rounded to the model dtype after each step.

        [T, K], the variance [T], and what it may be off along itself [3, T].
        """
        assert self._shared is not None
        w13, w2 = (w.to(self.dtype) for w in self._shared)
        numerics = Numerics(gemm1="model", activation="model", accumulation=2.0**-22)
        h = intermediate(x, w13, numerics, self._model, self.activation)
        y = h.value @ w2.T
        shards = self.problem.layout.tp_size
        power = w2.square().sum(dim=0)
        noise = (h.variance + h.jumps) @ power
        length = y.square().sum(dim=1)
        noise = noise + gathered(numerics, h.value.shape[1]) * length
        noise = noise + (1 + shards) * rounding_variance(y, self._model).sum(dim=1)
        unsharded = h.by_rank([range(h.value.shape[1])])
        return y, noise, along_itself(unsharded, power[None, :, None], length[None], 0.0)
