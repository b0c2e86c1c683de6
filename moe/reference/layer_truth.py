"""Hold what a layer computes with: the matrices of its experts, and all that its features add.

`moe.reference.layer` computes with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch

from moe.formats import FORMATS
from moe.reference import formats
from moe.reference.activation import activation_of
from moe.reference.shared_experts import SHARED, SharedTruth, gate_factor

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from moe.reference.adapters import AdapterTruth
    from moe.reference.error_propagation import Noisy
    from moe.reference.latent import LatentTruth
    from moe.spec import LayerSpec, Numerics

B = TypeVar("B", bound="LayerTruth")


class LayerTruth:
    """Know a layer, its numerics, and its weights, neither sharded nor quantized.

    expert(e) returns (w13 [2N, K], w2 [K, N]) in the model dtype; ids from num_experts on are fused
    shared experts. biases(e) returns (b13 [2N], b2 [K]) of its products. shared: the same for the
    shared experts as one wide MLP, or None. shared_gate: [1, K], or None. latent: projections of a
    latent layer, or None: its experts then have L in place of K. adapters: low-rank ones, or None.
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
        latent: LatentTruth | None = None,
        adapters: AdapterTruth | None = None,
        rank: int = 0,
    ) -> None:
        """Store the layer.

        numerics: with every place stated. values: returns cached results of `weights`; None:
        compute them. biases: None if the layer has none. rank: one that has the tokens, which tells
        where ranks hold all experts more than once. Raises ValueError for numerics that leave a
        place unstated.
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
        self.latent = latent
        self.adapters = adapters
        self.rank = rank
        self.weight_format = FORMATS[layer_spec.scheme.weights]
        self.act_format = FORMATS[layer_spec.scheme.activations]
        self.activation = activation_of(layer_spec.activation)
        self._model = layer_spec.dtype
        self._latest: tuple[int, tuple[Tensor, Tensor]] | None = None

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
            latent=self.latent,
            adapters=self.adapters,
            rank=self.rank,
        )

    def with_numerics(self: B, numerics: Numerics) -> B:
        """Return this reference with other numerics."""
        return self.remade(type(self), numerics)

    def with_layer_spec(self: B, layer_spec: LayerSpec) -> B:
        """Return this reference for the same layer in another description, such as a placement."""
        other = self.remade(type(self))
        other.layer_spec = layer_spec
        return other

    def with_latent(self: B, latent: LatentTruth) -> B:
        """Return this reference with other projections."""
        other = self.remade(type(self))
        other.latent = latent
        return other

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

    def entered(self, x: Tensor) -> Tensor:
        """Return the routed experts' input, [T, L] of x [T, K]; x itself if nothing projects it."""
        return self._entered(x.to(self.dtype))[0]

    def _entered(self, x: Tensor) -> tuple[Tensor, Noisy | None]:
        """Return `entered`, and its error, or None."""
        if self.latent is None:
            return x, None
        z = self.latent.enter(x, self._model)
        return z.value, z

    def adapted(self, e: int, adapter: int) -> tuple[Tensor, Tensor]:
        """Return expert e's `weights` with what an adapter adds to both; -1 = none."""
        if adapter < 0 or self.adapters is None:
            return self.weights(e)
        pairs = zip(self.weights(e), self.adapters.changes(adapter, e, self.dtype), strict=True)
        w13, w2 = (w + change for w, change in pairs)
        return w13, w2

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
