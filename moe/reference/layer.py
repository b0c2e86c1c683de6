"""`BaselineSiluAndMul`: the complete MoE layer, one expert at a time, in float32 or float64.

It takes the member's declared `Numerics` and the layout, because both change the correct output: a
rounding before the second quantization moves codes, and each rank quantizes its own columns of the
intermediate. Weights are quantized as in checkpoints, before they are sharded.

It also computes the error that a correct member may have, from the values of the case
(docs/bounds.md derives each term; `result.Answer` has the results).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
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
    first_product,
    intermediate,
    quantize_noisy,
)
from moe.reference.output_noise import Term, add_noise, sum_roundings, weight_error
from moe.reference.ownership import holders
from moe.reference.result import Answer, Sums
from moe.reference.shared_experts import SHARED, shared_output
from moe.spec import LayerSpec, Numerics, resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from moe.activations.base import ActivationTruth

B = TypeVar("B", bound="BaselineSiluAndMul")


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """Hold the [R] pairs of a token and a slot that chose expert `e`."""

    e: int
    rows: Tensor  # [R] int64, the tokens
    slots: Tensor  # [R] int64
    weight: Tensor  # [R] router weights, in the dtype that the numerics declare


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
        shared_numerics: Numerics = SHARED,
    ) -> None:
        """Store the layer.

        numerics: with every place stated. values: returns cached results of `weights`; None:
        compute them. Raises ValueError for numerics that leave a place unstated.
        """
        if numerics.unstated:
            raise ValueError(
                f"numerics do not state {', '.join(numerics.unstated)}; state every place with "
                "Numerics.stated(...), or try each of moe.assumed_numerics.alternatives"
            )
        self.layer_spec = layer_spec
        self.numerics = numerics
        self.shared_numerics = shared_numerics
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
        products: dict[int, Noisy] | None = None,
    ) -> Answer:
        """Return the output and its allowed error.

        x: [T, K]; with dynamic per-tensor scales, all tokens that share the member's scale.
        topk_ids: [T, k] int32, -1 = none; rows of only -1 give zeros. topk_weights: [T, k] float32.
        keep: [r] int64 rows whose `Answer.parts` are requested. like: an answer for more tokens,
        whose per-tensor scales are used. products: keeps each expert's first product, for other
        numerics with the same inputs.
        """
        x = x.to(self.dtype)
        kept = products if self.numerics.weight_on != "input" else None
        pairs = list(self._pairs(topk_ids, topk_weights.to(self.dtype)))
        if like is not None:
            first, second = like.tensor_scales
        else:
            first, second = self._first_scale(x, a1_scale, topk_weights), None
        inputs = self.quantize_input(x, first) if self.numerics.weight_on != "input" else x
        if like is None:
            second = self._second_scales(inputs, pairs, a2_scale, (first, kept))
        sums = self._empty_sums(x, topk_ids, keep)
        for of_expert in pairs:
            ranks, h = self._shards(of_expert, inputs, (first, kept))
            sums.amax2 = torch.maximum(sums.amax2, h.value.abs().amax())
            h = self.quantize_intermediate(h, None if second is None else second.of(ranks))
            self._add_shards(sums, of_expert, h)
        return dataclasses.replace(self._finish(sums, x), tensor_scales=(first, second))

    def _pairs(self, topk_ids: Tensor, topk_weights: Tensor) -> Iterator[Pairs]:
        """Yield the pairs of each expert that some token chose."""
        weights = topk_weights
        if self.numerics.weight_dtype == "model":
            weights = formats.on_grid(topk_weights, self._model)
        for e in range(self.layer_spec.num_experts):
            rows, slots = (topk_ids == e).nonzero(as_tuple=True)
            if len(rows):
                yield Pairs(e=e, rows=rows, slots=slots, weight=weights[rows, slots])

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
            unsure=x.new_zeros(x.shape),
            amax2=x.new_zeros(()),
        )

    def remade(self, kind: type[B]) -> B:
        """Return this reference as `kind`, a subclass that overrides some of the steps below."""
        return kind(
            *(self.layer_spec, self.numerics, self._expert, self._shared),
            dtype=self.dtype,
            values=self._values,
            shared_numerics=self.shared_numerics,
        )

    def with_numerics(self: B, numerics: Numerics) -> B:
        """Return this reference with other numerics."""
        return type(self)(
            *(self.layer_spec, numerics, self._expert, self._shared),
            dtype=self.dtype,
            values=self._values,
            shared_numerics=self.shared_numerics,
        )

    def expert(self, e: int | None) -> tuple[Tensor, Tensor]:
        """Return expert e's matrices before quantization; None: those of the shared experts."""
        assert e is not None or self._shared is not None, "the layer has no shared experts"
        pair = self._shared if e is None else self._expert(e)
        assert pair is not None
        return pair[0].to(self.dtype), pair[1].to(self.dtype)

    def _first_scale(
        self, x: Tensor, a1_scale: Tensor | None, topk_weights: Tensor
    ) -> Tensor | None:
        """Return the scale of the input if all tokens share one, else None."""
        if not self.act_format.has_one_scale:
            return None
        if self.numerics.weight_on == "input" and topk_weights.numel():
            x = x * topk_weights.amax(dim=1, keepdim=True)
        return formats.activation_scale(x, self.act_format, a1_scale, self.numerics)

    def quantize_input(self, x: Tensor, scale: Tensor | None) -> Tensor:
        """Return the values of the codes of x [T, K]. scale: [], or None: one per row or group."""
        if self.act_format.grid == "model":
            return x
        if scale is None:
            scale = formats.activation_scale(x, self.act_format, None, self.numerics)
        return formats.quantize(x, scale, self.act_format).values

    def _second_scales(
        self,
        inputs: Tensor,
        pairs: Sequence[Pairs],
        a2_scale: Tensor | None,
        first: tuple[Tensor | None, dict[int, Noisy] | None],
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
        for of_expert in pairs:
            ranks, h = self._shards(of_expert, inputs, first)
            largest = largest.or_larger(dynamic_scale(h, fmt, self.numerics), ranks)
        return largest

    def _shards(
        self,
        pairs: Pairs,
        inputs: Tensor,
        first: tuple[Tensor | None, dict[int, Noisy] | None],
    ) -> tuple[slice, Noisy]:
        """Return the ranks that compute an expert, and its intermediate [w, R, c] by rank.

        inputs: [T, K]. first: the input's scale, and the dict that keeps first products.
        """
        scale, products = first
        product = None if products is None else products.get(pairs.e)
        if product is None:
            rows = inputs[pairs.rows]
            if self.numerics.weight_on == "input":
                weighted = rows * pairs.weight[:, None]
                place = self._model if self.numerics.weighted == "model" else "f32"
                rows = self.quantize_input(formats.on_grid(weighted, place), scale)
            product = first_product(rows, self.weights(pairs.e)[0], self.numerics)
        if products is not None:
            products[pairs.e] = product
        weight = pairs.weight if self.numerics.weight_on == "intermediate" else None
        h = intermediate(product, self.numerics, self._model, self.activation, weight)
        ranks, columns = holders(self.layer_spec, pairs.e)
        return ranks, h.by_rank(columns)

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

    def quantize_intermediate(self, h: Noisy, shared: Scale | None) -> Noisy:
        """Quantize each rank's columns [w, R, c]. shared: scales [w, 1, 1], or None: dynamic."""
        fmt = self.act_format
        if fmt.grid == "model":
            return h
        return quantize_noisy(h, shared or dynamic_scale(h, fmt, self.numerics), fmt)

    def _add_shards(self, sums: Sums, pairs: Pairs, h: Noisy) -> None:
        """Add an expert's second product on the columns [w, R, c] of each rank that holds some."""
        ranks, columns = holders(self.layer_spec, pairs.e)
        w2 = by_rank(self.weights(pairs.e)[1], columns)  # [w, K, c]
        y = h.value @ w2.transpose(1, 2)
        is_weighted = self.numerics.weight_on != "output"
        if sums.parts.shape[1]:
            place = sums.place[pairs.rows]
            recorded = place >= 0
            parts = y / _nonzero(pairs.weight)[:, None] if is_weighted else y
            sums.parts[ranks, place[recorded], pairs.slots[recorded]] = parts[:, recorded]
        weight = torch.ones_like(pairs.weight) if is_weighted else pairs.weight
        sums.partial[ranks].index_add_(1, pairs.rows, weight[:, None] * y)
        term = Term(rows=pairs.rows, weight=weight, h=h, w2=w2, y=y)
        add_noise(sums, term, self.numerics, self.layer_spec)

    def _finish(self, sums: Sums, x: Tensor) -> Answer:
        """Sum over the ranks and add the shared experts, with the roundings of these sums."""
        out, variance, shared = sums.partial.sum(dim=0), sums.variance, None
        if self._shared is not None:
            w13, w2 = (w.to(self.dtype) for w in self._shared)
            shared, noise, along = shared_output(
                x, (w13, w2), self.shared_numerics, self.layer_spec, self.activation
            )
            out = out + shared
            variance = variance + noise
            sums.along += along
        has_shared = self._shared is not None
        roundings = sum_roundings(sums.partial, out, self.numerics, self.layer_spec, has_shared)
        unsure, along_unsure = weight_error(sums.unsure, out)
        return Answer(
            out=out,
            variance=variance + roundings + unsure,
            flips=sums.flips,
            along=torch.cat([sums.along, along_unsure[None]]),
            amax1=x.abs().amax() if x.numel() else x.new_zeros(()),
            amax2=sums.amax2,
            parts=sums.parts,
            shared=shared,
        )


def _nonzero(weight: Tensor) -> Tensor:
    """Return the weights with 1 in place of zeros, to divide by."""
    return torch.where(weight == 0, torch.ones_like(weight), weight)
