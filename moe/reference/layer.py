"""`BaselineSiluAndMul`: the complete MoE layer, one expert at a time, in float32 or float64.

It takes the member's declared `Numerics` and the layout, because both change the correct output: a
rounding before the second quantization moves codes, and each rank quantizes its own columns of the
intermediate. Weights are quantized as in checkpoints, before they are sharded.

It also computes the error that a correct member may have, from the values of the case
(docs/bounds.md derives each term; `result.Answer` has the results).
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, TypeVar

import torch

from moe.formats import FORMATS
from moe.reference import formats
from moe.reference.activation import activation_of
from moe.reference.error_propagation import Noisy, by_rank, first_product, intermediate
from moe.reference.output_noise import Term, add_noise
from moe.reference.ownership import holders
from moe.reference.pairs import largest_input, pairs_of, weighted_input
from moe.reference.result import Answer, Sums, empty_sums, record_parts
from moe.reference.scale_error import Scale, dynamic_scale, largest_of, quantize_noisy
from moe.reference.shared_experts import SHARED, SharedTruth, gate_factor
from moe.reference.total import answer_of, passed_through

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from moe.reference.pairs import Pairs
    from moe.spec import LayerSpec, Numerics

B = TypeVar("B", bound="BaselineSiluAndMul")


class BaselineSiluAndMul:
    """y = sum over k of weight * down(f(gate(x)) * up(x)), plus the shared experts.

    expert(e) returns (w13 [2N, K], w2 [K, N]) in the model dtype, neither sharded nor quantized;
    ids from num_experts on are fused shared experts. biases(e) returns (b13 [2N], b2 [K]) of its
    products. shared: the same for the shared experts as one
    wide MLP, or None. shared_gate: [1, K], or None.
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
        shared_gate: Tensor | None = None,
        biases: Callable[[int], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        """Store the layer.

        numerics: with every place stated. values: returns cached results of `weights`; None:
        compute them. biases: None if the layer has none. Raises ValueError for numerics that leave
        a place unstated.
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
        self._shared_gate = shared_gate
        self._values = values
        self._biases = biases
        self.weight_format = FORMATS[layer_spec.scheme.weights]
        self.act_format = FORMATS[layer_spec.scheme.activations]
        self.activation = activation_of(layer_spec.activation)
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
        pairs = self._pairs(topk_ids, topk_weights)
        first = self._first_scale(x, pairs, a1_scale) if like is None else like.tensor_scales[0]
        inputs = self.quantize_input(x, first) if self.numerics.weight_on != "input" else x
        second = None if like is None else like.tensor_scales[1]
        if like is None:
            second = self._second_scales(inputs, pairs, a2_scale, (first, kept))
        sums = empty_sums(x, topk_ids.shape[1], self.layer_spec.layout.world_size, keep)
        for of_expert in pairs:
            ranks, h = self._shards(of_expert, inputs, (first, kept))
            sums.amax2 = torch.maximum(sums.amax2, h.value.abs().amax())
            h = self.quantize_intermediate(h, None if second is None else second.of(ranks))
            self._add_shards(sums, of_expert, h)
        shared = None if self.shared is None else self.shared(x)
        passed = None
        if self.layer_spec.zero_experts:
            passed = passed_through(x, topk_ids, topk_weights, self.layer_spec.num_experts)
        answer = answer_of(sums, x, shared, self.numerics, self.layer_spec, passed)
        return dataclasses.replace(answer, tensor_scales=(first, second))

    def _pairs(self, topk_ids: Tensor, topk_weights: Tensor) -> list[Pairs]:
        """Return the pairs of each expert, with router weights in their declared dtype."""
        weights = topk_weights.to(self.dtype)
        if self.numerics.weight_dtype == "model":
            weights = formats.on_grid(weights, self._model)
        return list(pairs_of(topk_ids, weights, self.layer_spec.held_experts))

    def remade(self, kind: type[B], numerics: Numerics | None = None) -> B:
        """Return this reference as `kind`, a subclass that overrides some of the steps below.

        numerics: others; None: its own.
        """
        return kind(
            *(self.layer_spec, numerics or self.numerics, self._expert, self._shared),
            dtype=self.dtype,
            values=self._values,
            shared_numerics=self.shared_numerics,
            shared_gate=self._shared_gate,
            biases=self._biases,
        )

    def with_numerics(self: B, numerics: Numerics) -> B:
        """Return this reference with other numerics."""
        return self.remade(type(self), numerics)

    def expert(self, e: int) -> tuple[Tensor, Tensor]:
        """Return expert e's matrices before quantization."""
        w13, w2 = self._expert(e)
        return w13.to(self.dtype), w2.to(self.dtype)

    @property
    def shared(self) -> SharedTruth | None:
        """Return the shared experts that are not fused with the routed ones, or None."""
        if self._shared is None:
            return None
        return SharedTruth(
            w13=self._shared[0],
            w2=self._shared[1],
            gate=self._shared_gate,
            numerics=self.shared_numerics,
            layer_spec=self.layer_spec,
            activation=self.activation,
        )

    def shared_factor(self, x: Tensor) -> Tensor:
        """Return the gate of the shared experts, [T, 1] or [1, 1]: one, where there is none."""
        if self._shared_gate is None:
            return x.new_ones((1, 1), dtype=self.dtype)
        return gate_factor(x.to(self.dtype), self._shared_gate)

    def biases(self, e: int) -> tuple[Tensor, Tensor] | None:
        """Return expert e's b13 [2N] and b2 [K], or None if the layer has no biases."""
        if self._biases is None:
            return None
        b13, b2 = self._biases(e)
        return b13.to(self.dtype), b2.to(self.dtype)

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
        return formats.quantize(x, scale, self.act_format).values

    def _second_scales(
        self,
        inputs: Tensor,
        pairs: Sequence[Pairs],
        a2_scale: Tensor | None,
        first: tuple[Tensor | None, dict[int, Noisy] | None],
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
        for of_expert in pairs:
            ranks, h = self._shards(of_expert, inputs, first)
            largest = largest.or_larger(largest_of(h), ranks)
        scale = formats.tensor_scale(largest.scale, fmt, self.numerics)
        return dataclasses.replace(largest, scale=scale)

    def _shards(
        self,
        pairs: Pairs,
        inputs: Tensor,
        first: tuple[Tensor | None, dict[int, Noisy] | None],
    ) -> tuple[slice, Noisy]:
        """Return the ranks that compute an expert, and its intermediate [w, R, c] by rank.

        inputs: [T, K]. first: the input's scale, and the dict that keeps first products.
        """
        product = self._first_product(pairs, inputs, first)
        weight = pairs.weight if self.numerics.weight_on == "intermediate" else None
        h = intermediate(product, self.numerics, self._model, self.activation, weight)
        ranks, columns = holders(self.layer_spec, pairs.e)
        return ranks, h.by_rank(columns)

    def _first_product(
        self,
        pairs: Pairs,
        inputs: Tensor,
        first: tuple[Tensor | None, dict[int, Noisy] | None],
    ) -> Noisy:
        """Return the first product [R, 2N] of an expert, kept or computed; see `_shards`."""
        scale, products = first
        if products is not None and pairs.e in products:
            return products[pairs.e]
        rows = inputs[pairs.rows]
        if self.numerics.weight_on == "input":
            weighted = weighted_input(inputs, pairs, self.numerics, self._model)
            rows = self.quantize_input(weighted, scale)
        biases = self.biases(pairs.e)
        bias = None if biases is None else biases[0]
        product = first_product(rows, self.weights(pairs.e)[0], self.numerics, bias)
        if products is not None:
            products[pairs.e] = product
        return product

    def weights(self, e: int) -> tuple[Tensor, Tensor]:
        """Return the values of the codes of expert e's matrices; the latest result is cached."""
        is_rounded = self.numerics.dequantized == "model"
        if self._values is not None and not is_rounded:
            return self._values(e)
        if self._latest is None or self._latest[0] != e:
            model = self._model if is_rounded else "f32"
            w13, w2 = (
                formats.rounded_weight_values(w.to(self.dtype), self.weight_format, model)
                for w in self._expert(e)
            )
            self._latest = (e, (w13, w2))
        return self._latest[1]

    def quantize_intermediate(self, h: Noisy, shared: Scale | None) -> Noisy:
        """Quantize each rank's columns [w, R, c]. shared: [w, 1, 1] of all rows, or None."""
        fmt = self.act_format
        if fmt.grid == "model":
            return h
        if shared is None or not fmt.has_one_scale:
            shared = dynamic_scale(h, fmt, self.numerics, shared)
        return quantize_noisy(h, shared, fmt)

    def _add_shards(self, sums: Sums, pairs: Pairs, h: Noisy) -> None:
        """Add an expert's second product on the columns [w, R, c] of each rank that holds some."""
        ranks, columns = holders(self.layer_spec, pairs.e)
        w2 = by_rank(self.weights(pairs.e)[1], columns)  # [w, K, c]
        y = h.value @ w2.transpose(1, 2)
        if (biases := self.biases(pairs.e)) is not None:
            y[0] += self._second_bias(biases[1], pairs)  # of the ranks that share an expert, one
        is_weighted = self.numerics.weight_on != "output"
        record_parts(sums, pairs, ranks, y / pairs.divisor if is_weighted else y)
        weight = torch.ones_like(pairs.weight) if is_weighted else pairs.weight
        sums.partial[ranks].index_add_(1, pairs.rows, weight[:, None] * y)
        term = Term(rows=pairs.rows, weight=weight, h=h, w2=w2, y=y)
        add_noise(sums, term, self.numerics, self.layer_spec)

    def _second_bias(self, b2: Tensor, pairs: Pairs) -> Tensor:
        """Return b2 [K] as it is added to the output, times the router weight if that has it."""
        return b2 * pairs.weight[:, None] if self.numerics.weight_on == "intermediate" else b2
