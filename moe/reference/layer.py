"""`BaselineSiluAndMul`: the complete MoE layer, in float32 or float64.

It takes the member's declared `Numerics` and the layout, because both change the correct output: a
rounding before the second quantization moves codes, and each rank quantizes its own columns of the
intermediate. Weights are quantized as in checkpoints, before they are sharded.

It also computes the error that a correct member may have, from the values of the case
(docs/bounds.md derives each term; `result.Answer` has the results).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch

from moe.reference import formats
from moe.reference.error_propagation import Noisy, by_rank, first_product, intermediate
from moe.reference.joined_pairs import joined
from moe.reference.latent import carried, quantized_error
from moe.reference.layer_truth import LayerTruth
from moe.reference.output_noise import Term, add_noise
from moe.reference.pairs import largest_input, pairs_of, weighted_input
from moe.reference.result import Answer, Sums, empty_sums, record_parts
from moe.reference.row_matrices import RowMatrices
from moe.reference.scale_error import Scale, dynamic_scale, largest_of, quantize_noisy
from moe.reference.total import answer_of, passed_through

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from moe.reference.joined_pairs import JoinedPairs, Products
    from moe.reference.pairs import Pairs


@dataclasses.dataclass(frozen=True, kw_only=True)
class First:
    """Hold what the first products have in common.

    scale: of the input, or the global scale, if all tokens share one, else None. kept: first
    products by `JoinedPairs.key`, kept for other numerics, or None. error: [T, L] of the input of a
    latent layer, or None.
    """

    scale: Tensor | None
    kept: Products | None
    error: Noisy | None = None


class BaselineSiluAndMul(LayerTruth):
    """y = sum over k of weight * down(f(gate(x)) * up(x)), plus the shared experts."""

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
        products: Products | None = None,
        adapters: Tensor | None = None,
        owners: Tensor | None = None,
    ) -> Answer:
        """Return the output and its allowed error.

        x: [T, K]; with dynamic per-tensor scales, all tokens that share the member's scale.
        topk_ids: [T, k] int32, -1 = none; rows of only -1 give zeros. topk_weights: [T, k] float32.
        keep: [r] int64 rows whose `Answer.parts` are requested. like: an answer for more tokens,
        whose per-tensor scales are used. products: keeps the experts' first products, for other
        numerics with the same inputs. adapters: [T] int32 number of each token's low-rank adapter,
        -1 = none, or None. owners: [T, k] EP rank whose replica computes each slot; None: experts
        have no replicas, or the first one computes all.
        """
        x = x.to(self.dtype)
        kept = products if self.numerics.weight_on != "input" else None
        pairs = self._pairs(topk_ids, topk_weights, adapters, owners)
        z, error = self._entered(x)
        scale = self._first_scale(z, pairs, a1_scale) if like is None else like.tensor_scales[0]
        inputs = self.quantize_input(z, scale) if self.numerics.weight_on != "input" else z
        if error is not None:
            error = quantized_error(error, scale, self.act_format, self.numerics)
        first = First(scale=scale, kept=kept, error=error)
        second = None if like is None else like.tensor_scales[1]
        parts = joined(pairs, self.layer_spec, self.rank)
        if like is None:
            second = self._second_scales(inputs, parts, a2_scale, first)
        sums = empty_sums(x, topk_ids.shape[1], self.layer_spec.layout.world_size, keep)
        for some in parts:
            w13, w2 = self._matrices(some)
            h = self._shards(some, w13, inputs, first)
            sums.amax2 = torch.maximum(sums.amax2, h.value.abs().amax())
            h = self.quantize_intermediate(h, None if second is None else second.of(some.ranks))
            self._add_shards(sums, some, w2, h)
        shared = None if self.shared is None else self.shared(x)
        passed = None
        if self.layer_spec.zero_experts:
            passed = passed_through(x, topk_ids, topk_weights, self.layer_spec.num_experts)
        answer = answer_of(sums, z, shared, self.numerics, self.layer_spec, passed)
        if self.latent is not None:
            more = self.latent.rounding(sums.partial, self.layer_spec)
            answer = dataclasses.replace(answer, variance=answer.variance + more)
        return dataclasses.replace(answer, tensor_scales=(scale, second))

    def _pairs(
        self,
        topk_ids: Tensor,
        topk_weights: Tensor,
        adapters: Tensor | None,
        owners: Tensor | None,
    ) -> list[Pairs]:
        """Return the pairs of each expert, with router weights in their declared dtype."""
        weights = topk_weights.to(self.dtype)
        if self.numerics.weight_dtype == "model":
            weights = formats.on_grid(weights, self._model)
        return list(pairs_of(topk_ids, weights, self.layer_spec.held_experts, adapters, owners))

    def _first_scale(
        self, x: Tensor, pairs: Sequence[Pairs], a1_scale: Tensor | None
    ) -> Tensor | None:
        """Return the scale, or global scale, of the input if all tokens share one, else None."""
        fmt = self.act_format
        if fmt.static:
            assert a1_scale is not None, "a static format needs its calibrated scale"
            return a1_scale.to(self.dtype)
        if not fmt.spans_rows:
            return None
        largest = largest_input(x, pairs, self.numerics, self._model)
        return formats.tensor_scale(largest, fmt, self.numerics)

    def quantize_input(self, x: Tensor, scale: Tensor | None) -> Tensor:
        """Return the values of the codes of x [T, K]. scale: what all rows share, or None."""
        if self.act_format.grid == "model":
            return x
        if scale is None or not self.act_format.has_one_scale:
            scale = formats.activation_scale(x, self.act_format, scale, self.numerics)
        return formats.quantized_values(x, scale, self.act_format)

    def _second_scales(
        self,
        inputs: Tensor,
        parts: Sequence[JoinedPairs],
        a2_scale: Tensor | None,
        first: First,
    ) -> Scale | None:
        """Return each rank's scale, or global scale, [world] if its rows share one, else None."""
        world, fmt = self.layer_spec.layout.world_size, self.act_format
        if not (fmt.spans_rows or fmt.static):
            return None
        zeros = inputs.new_zeros(world)
        if fmt.static:
            assert a2_scale is not None, "a static format needs its calibrated scale"
            return Scale(scale=a2_scale.to(self.dtype).expand(world), doubt=zeros, chance=zeros)
        largest = Scale(scale=zeros, doubt=zeros, chance=zeros)
        for some in parts:
            h = self._shards(some, self._matrices(some)[0], inputs, first)
            largest = largest.or_larger(largest_of(h), some.ranks)
        scale = formats.tensor_scale(largest.scale, fmt, self.numerics)
        return dataclasses.replace(largest, scale=scale)

    def _matrices(self, pairs: JoinedPairs) -> tuple[RowMatrices, RowMatrices]:
        """Return the matrices [2N, K] and [K, N] of each pair's expert.

        Of a latent layer the second ones have the way back in them.
        """
        both = [self.adapted(of_expert.e, of_expert.adapter) for of_expert in pairs.each]
        first, second = zip(*both, strict=True)
        if self.latent is not None:
            second = tuple(self.latent.folded(w2) for w2 in second)
        sizes, which = pairs.sizes, pairs.which
        return (
            RowMatrices(matrices=first, sizes=sizes, which=which),
            RowMatrices(matrices=second, sizes=sizes, which=which),
        )

    def _shards(self, pairs: JoinedPairs, w13: RowMatrices, inputs: Tensor, first: First) -> Noisy:
        """Return the experts' intermediate [w, R, c] by rank. inputs: [T, K]."""
        product = self._first_product(pairs, w13, inputs, first)
        weight = pairs.weight if self.numerics.weight_on == "intermediate" else None
        h = intermediate(product, self.numerics, self._model, self.activation, weight)
        return h.by_rank(pairs.columns)

    def _first_product(
        self, pairs: JoinedPairs, w13: RowMatrices, inputs: Tensor, first: First
    ) -> Noisy:
        """Return the first product [R, 2N] of some experts, kept or computed; see `_shards`."""
        if first.kept is not None and pairs.key in first.kept:
            return first.kept[pairs.key]
        rows = self._first_rows(pairs, inputs, first.scale)
        product = first_product(rows, w13, self.numerics, self._biases_of(pairs, w13, 0))
        if first.error is not None:
            product = carried(product, self._error_of(pairs, first.error), w13)
        if first.kept is not None:
            first.kept[pairs.key] = product
        return product

    def _first_rows(self, pairs: JoinedPairs, inputs: Tensor, scale: Tensor | None) -> Tensor:
        """Return [R, K], what the first product multiplies. inputs: [T, K]. scale: if all share."""
        if self.numerics.weight_on != "input":
            return inputs[pairs.rows]
        weighted = weighted_input(inputs, pairs, self.numerics, self._model)
        return self.quantize_input(weighted, scale)

    def _error_of(self, pairs: JoinedPairs, error: Noisy) -> Noisy:
        """Return the error of these rows' input [R, L]."""
        rows = error.rows(pairs.rows)
        return rows.times(pairs.weight) if self.numerics.weight_on == "input" else rows

    def _biases_of(self, pairs: JoinedPairs, w: RowMatrices, product: int) -> Tensor | None:
        """Return the bias of the first or second product of each pair's expert, or None.

        [R, O], or [1, O] of one expert. w: the product's matrices.
        """
        biases = [self.biases(of_expert.e) for of_expert in pairs.each]
        of_each = [both[product] for both in biases if both is not None]
        return w.spread(of_each) if of_each else None

    def quantize_intermediate(self, h: Noisy, shared: Scale | None) -> Noisy:
        """Quantize each rank's columns [w, R, c]. shared: [w, 1, 1] of all rows, or None."""
        fmt = self.act_format
        if fmt.grid == "model":
            return h
        if shared is None or not fmt.has_one_scale:
            shared = dynamic_scale(h, fmt, self.numerics, shared)
        return quantize_noisy(h, shared, fmt)

    def _add_shards(self, sums: Sums, pairs: JoinedPairs, w2: RowMatrices, h: Noisy) -> None:
        """Add the second products on the columns [w, R, c] of each rank that holds some."""
        y = self._second_product(pairs, w2, h.value)
        is_weighted = self.numerics.weight_on != "output"
        record_parts(sums, pairs, y / pairs.divisor if is_weighted else y)
        weight = torch.ones_like(pairs.weight) if is_weighted else pairs.weight
        pairs.add_rows(sums.partial[pairs.ranks], weight[:, None] * y)
        term = Term(pairs=pairs, weight=weight, h=h, w2=w2, y=y)
        add_noise(sums, term, self.numerics, self.layer_spec)

    def _second_product(self, pairs: JoinedPairs, w2: RowMatrices, h: Tensor) -> Tensor:
        """Return [w, R, K] of each rank's columns h [w, R, c], with the biases."""
        y = w2.product(h, of=lambda matrix: by_rank(matrix, pairs.columns))
        if (bias := self._biases_of(pairs, w2, 1)) is not None:
            y[0] += self._second_bias(bias, pairs)  # of the ranks that share an expert, one
        return y

    def _second_bias(self, b2: Tensor, pairs: JoinedPairs) -> Tensor:
        """Return b2 [R, K] as it is added to the output, with the router weight if that has it."""
        b2 = b2 if self.latent is None else self.latent.leave(b2)
        return b2 * pairs.weight[:, None] if self.numerics.weight_on == "intermediate" else b2
