"""Compute the outputs of the reference alone, without the errors that correct members may have.

It takes the same steps in the same order, and a fifth of the operations: for outputs of layers that
are not the one under test, such as one that does not quantize.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.numerics import EITHER
from moe.reference import formats
from moe.reference.error_propagation import by_rank
from moe.reference.joined_pairs import joined
from moe.reference.layer import BaselineSiluAndMul
from moe.reference.total import passed_through

if TYPE_CHECKING:
    from torch import Tensor

    from moe.reference.joined_pairs import JoinedPairs
    from moe.reference.result import Answer
    from moe.reference.row_matrices import RowMatrices
    from moe.reference.scale_error import Scale


class OutputValues(BaselineSiluAndMul):
    """Compute `Answer.out`. Subclasses leave steps out."""

    def outputs(
        self,
        x: Tensor,
        topk_ids: Tensor,
        topk_weights: Tensor,
        like: Answer,
        *,
        shared: Tensor | None = None,
        adapters: Tensor | None = None,
    ) -> Tensor:
        """Return [T, K] for some tokens of a call. x, topk_ids, topk_weights, adapters: see above.

        like: the answer for the call, whose per-tensor scales are used. shared: [T, K] what the
        shared experts add, or None.
        """
        x = x.to(self.dtype)
        z, (scale, second) = self.entered(x), like.tensor_scales
        inputs = self.quantize_input(z, scale) if self.numerics.weight_on != "input" else z
        partial = x.new_zeros((self.layer_spec.layout.world_size, *x.shape))
        pairs = self._pairs(topk_ids, topk_weights, adapters, None)
        for some in joined(pairs, self.layer_spec, self.rank):
            w13, w2 = self._matrices(some)
            h = self._intermediate(some, w13, self._first_rows(some, inputs, scale))
            h = by_rank(h, some.columns)
            h = self.quantize_values(h, None if second is None else second.of(some.ranks))
            y = self._second_product(some, w2, h)
            y = some.weight[:, None] * y if self.numerics.weight_on == "output" else y
            some.add_rows(partial[some.ranks], y)
        out = partial.sum(dim=0)
        out = out if shared is None else out + shared
        if self.layer_spec.zero_experts:
            first = self.layer_spec.num_experts
            out = out + passed_through(x, topk_ids, topk_weights, first)
        return out

    def quantize_values(self, h: Tensor, shared: Scale | None) -> Tensor:
        """Return the values of the codes of each rank's columns h [w, R, c].

        shared: [w, 1, 1], what all rows share, or None.
        """
        fmt = self.act_format
        if fmt.grid == "model":
            return h
        scale = None if shared is None else shared.scale
        if scale is None or not fmt.has_one_scale:
            scale = formats.activation_scale(h, fmt, scale, self.numerics)
        return formats.quantized_values(h, scale, fmt)

    def _intermediate(self, pairs: JoinedPairs, w13: RowMatrices, rows: Tensor) -> Tensor:
        """Return the activation [R, N] of the first product of rows [R, K], before quantization."""
        numerics, bias = self.numerics, self._biases_of(pairs, w13, 0)
        product = w13.product(rows)
        product = product if bias is None else product + bias
        gate, up = self.activation.split(self._rounded(product, numerics.gemm1))
        h = self.activation.of_gate(gate).value
        if up is not None:
            h = self._rounded(h, numerics.activated_gate) * self.activation.of_up(up).value
        h = self._rounded(h, numerics.activation)
        if numerics.weight_on != "intermediate":
            return h
        return self._rounded(h * pairs.weight[:, None], numerics.weighted)

    def _rounded(self, x: Tensor, place: str | None) -> Tensor:
        """Return x rounded to the layer's dtype if a place says so."""
        if place in ("f32", EITHER) or self._model == "f32":
            return x
        return formats.on_grid(x, self._model)
