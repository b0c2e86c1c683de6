"""Emulate a layer on one rank: perform each rounding on the values themselves.

The reference counts what is rounded after the second product as noise, so it cannot tell whether a
member rounds there. `Emulation` computes the output of a member that rounds exactly as `Numerics`
state. Compared bit by bit with an output, it shows where the member rounds.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moe.numerics import EITHER, Numerics
from moe.reference import formats

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from torch import Tensor

    from moe.reference.layer import BaselineSiluAndMul

# Places before each step, whose results are shared by numerics with equal values there.
_AT_INPUT = ("weight_on", "weight_dtype", "weighted")
_AT_INTERMEDIATE = (*_AT_INPUT, "gemm1", "activated_gate", "activation")
_OF_SCALES = ("scale", "amax_floor", "amax_epsilon")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Hold one call of a layer. Every id is an expert's: one rank has no padding and no others.

    x: [T, K]. topk_ids: [T, k] int32. topk_weights: [T, k] float32. a1_scale, a2_scale: [] float32,
    for static formats. adapters: [T] int32 number of each token's low-rank adapter, -1 = none;
    None: no token has one.
    """

    x: Tensor
    topk_ids: Tensor
    topk_weights: Tensor
    a1_scale: Tensor | None = None
    a2_scale: Tensor | None = None
    adapters: Tensor | None = None


class Emulation:
    """Compute the output of one call for any numerics; earlier steps are kept and shared.

    Products are summed in float64 and returned in float32, so that only the stated roundings show.
    """

    def __init__(self, reference: BaselineSiluAndMul, inputs: Inputs) -> None:
        """Store the layer.

        Raises ValueError for more than one rank, and for shared experts and zero experts.
        """
        spec = reference.layer_spec
        world, shared, zero = spec.layout.world_size, spec.shared_experts, spec.zero_experts
        if world > 1 or shared or zero:
            raise ValueError(
                f"{world} rank(s) with {shared} shared and {zero} zero experts cannot be emulated: "
                "choose a layer of one rank without them"
            )
        self._reference = reference
        self._model = spec.dtype
        self._inputs = dataclasses.replace(inputs, x=self._entered(inputs.x.float()))
        self._kept: dict[Hashable, Tensor] = {}

    def __call__(self, numerics: Numerics) -> Tensor:
        """Return the output [T, K] float32, rounded to the layer's dtype.

        numerics: every place stated, each with a value of its own. `combine_order` is the router's
        for `slots`, and that of the experts' ids for `any`. Raises ValueError for EITHER.
        """
        terms = self._terms(numerics)
        if numerics.combine == "f32":
            return self._left(self._rounded(terms.double().sum(dim=1).float(), "model"))
        ids = self._inputs.topk_ids.long()
        slots = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        is_by_slot = numerics.combine_order == "slots"
        return self._left(self._summed(terms, slots if is_by_slot else ids.argsort(dim=1)))

    def nearest(self, numerics: Numerics, out: Tensor) -> Tensor:
        """Return the output [T, K] with each row summed in the order that is nearest to `out`.

        Atomic additions have an order of their own for each row. There are top_k! orders.
        """
        terms, ids = self._terms(numerics), self._inputs.topk_ids
        best, least = self(numerics), torch.full((len(out),), torch.inf, device=out.device)
        for order in itertools.permutations(range(ids.shape[1])):
            in_order = torch.tensor(order, device=ids.device).expand_as(ids)
            summed = self._left(self._summed(terms, in_order))
            distance = (summed - out).square().sum(dim=1)
            best = torch.where((distance < least)[:, None], summed, best)
            least = torch.minimum(least, distance)
        return best

    def _entered(self, x: Tensor) -> Tensor:
        """Return the experts' input, [T, L] of x [T, K]: of a latent layer rounded once."""
        latent = self._reference.latent
        if latent is None:
            return x
        return self._rounded((x.double() @ latent.down.double().T).float(), "model")

    def _left(self, sums: Tensor) -> Tensor:
        """Return the output [T, K] of the experts' sums [T, L]: of a latent layer rounded again."""
        latent = self._reference.latent
        if latent is None:
            return sums
        return self._rounded(latent.leave(sums.double()).float(), "model")

    def _terms(self, numerics: Numerics) -> Tensor:
        """Return what each slot adds to the sum of experts, [T, k, K] or [T, k, L]."""
        _check(numerics)
        y = self._rounded(self._second_product(numerics), numerics.expert)
        by_slot = y.reshape(*self._inputs.topk_ids.shape, -1)
        if numerics.weight_on != "output":
            return by_slot
        weighted = by_slot * self._weights(numerics)[:, :, None]
        return self._rounded(weighted, numerics.weighted)

    def _summed(self, terms: Tensor, order: Tensor) -> Tensor:
        """Return the sum of terms [T, k, K], rounded at each addition. order: slots, [T, k]."""
        ordered = terms.gather(1, order[:, :, None].expand_as(terms))
        total = torch.zeros_like(terms[:, 0])
        for term in ordered.unbind(dim=1):
            total = self._rounded(total + term, "model")
        return total

    def _second_product(self, numerics: Numerics) -> Tensor:
        """Return [T * k, K] float32, rows by token and slot."""
        places = (*_AT_INTERMEDIATE, *_OF_SCALES)
        return self._keep(
            "second",
            numerics,
            places,
            lambda: self._products(
                self._quantized(self._intermediate(numerics), numerics), 1, numerics
            ),
        )

    def _quantized(self, h: Tensor, numerics: Numerics) -> Tensor:
        """Return the values of the codes of the intermediate [R, N]."""
        fmt = self._reference.act_format
        if fmt.grid == "model":
            return h
        scale = formats.activation_scale(h, fmt, self._inputs.a2_scale, numerics)
        return formats.quantized_values(h, scale, fmt)

    def _intermediate(self, numerics: Numerics) -> Tensor:
        """Return f(gate) * up [R, N], times the router weight where it is multiplied there."""
        product = self._rounded(self._first_product(numerics), numerics.gemm1)
        activation = self._reference.activation
        gate, up = activation.split(product)
        h = activation.of_gate(gate).value
        if up is not None:
            h = self._rounded(h, numerics.activated_gate) * activation.of_up(up).value
        h = self._rounded(h, numerics.activation)
        if numerics.weight_on != "intermediate":
            return h
        return self._rounded(h * self._weights(numerics).reshape(-1, 1), numerics.weighted)

    def _first_product(self, numerics: Numerics) -> Tensor:
        """Return [R, 2N] float32. Numerics that weight the input have products of their own."""
        is_weighted = numerics.weight_on == "input"
        places = (*_AT_INPUT, *_OF_SCALES) if is_weighted else _OF_SCALES
        step = "weighted first" if is_weighted else "first"
        return self._keep(step, numerics, places, lambda: self._of_inputs(numerics))

    def _of_inputs(self, numerics: Numerics) -> Tensor:
        """Return the first product [R, 2N] of each token, quantized after any router weight."""
        x, weights, fmt = self._inputs.x, self._weights(numerics), self._reference.act_format
        rows = x.repeat_interleave(weights.shape[1], dim=0)
        if numerics.weight_on == "input":
            rows = self._rounded(rows * weights.reshape(-1, 1), numerics.weighted)
        if fmt.grid != "model":
            scale = formats.activation_scale(rows, fmt, self._inputs.a1_scale, numerics)
            rows = formats.quantized_values(rows, scale, fmt)
        return self._products(rows, 0, numerics)

    def _products(self, rows: Tensor, matrix: int, numerics: Numerics) -> Tensor:
        """Return each row [R, I] times its expert's first or second matrix (0, 1), [R, O].

        An adapter changes the matrix: what it adds is not rounded by itself.
        """
        ids, numbers = self._inputs.topk_ids.reshape(-1), self._adapters()
        products = torch.empty(0)
        for e, a in itertools.product(
            range(self._reference.layer_spec.num_experts), torch.unique(numbers).tolist()
        ):
            w = self._matrix(e, a, matrix)
            biases = self._reference.biases(e)
            if not len(products):
                products = rows.new_empty(len(rows), len(w))
            chosen = (ids == e) & (numbers == a)
            sums = rows[chosen].double() @ w.T
            if biases is not None:
                sums = sums + self._bias(biases[matrix], matrix, numerics, chosen)
            products[chosen] = sums.float()
        return products

    def _matrix(self, e: int, adapter: int, matrix: int) -> Tensor:
        """Return expert e's first or second matrix (0, 1) in float64, with the adapter's change."""
        w, truth = self._reference.weights(e)[matrix].double(), self._reference.adapters
        return w if adapter < 0 or truth is None else w + truth.changes(adapter, e, w.dtype)[matrix]

    def _adapters(self) -> Tensor:
        """Return each slot's adapter [T * k], -1 = none."""
        ids, numbers = self._inputs.topk_ids, self._inputs.adapters
        if numbers is None:
            return ids.new_full((ids.numel(),), -1)
        return numbers.repeat_interleave(ids.shape[1])

    def _bias(self, bias: Tensor, matrix: int, numerics: Numerics, chosen: Tensor) -> Tensor:
        """Return the bias of these rows; b2 is weighted like the outputs that it is added to."""
        if matrix == 0 or numerics.weight_on != "intermediate":
            return bias.double()
        return self._weights(numerics).reshape(-1, 1)[chosen].double() * bias.double()

    def _weights(self, numerics: Numerics) -> Tensor:
        """Return the router weights [T, k] in the dtype that the numerics state."""
        return self._rounded(self._inputs.topk_weights.float(), numerics.weight_dtype)

    def _rounded(self, x: Tensor, place: str | None) -> Tensor:
        """Return x, rounded to the layer's dtype if the place is `model`."""
        return formats.on_grid(x, self._model) if place == "model" else x

    def _keep(
        self,
        step: str,
        numerics: Numerics,
        places: tuple[str, ...],
        compute: Callable[[], Tensor],
    ) -> Tensor:
        """Return the result of a step, computed once for equal values at these places."""
        key = (step, *(getattr(numerics, place) for place in places))
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]


def _check(numerics: Numerics) -> None:
    """Raise ValueError for numerics that do not state one value for each place."""
    either = [name for name, value in numerics.places.items() if value == EITHER]
    if numerics.unstated or either:
        places = ", ".join((*numerics.unstated, *either))
        raise ValueError(f"numerics leave {places} open; an emulation needs a value for each place")
