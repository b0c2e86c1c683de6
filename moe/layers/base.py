"""Define the base class of whole layers under test: checkpoint weights once, then hidden states.

A class that derives from `LayerSubject` has its own gate, router, experts and collectives, and
shards and converts the weights itself. docs/your-own-layer.md shows an example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from moe.layers.layer_row import OwnLayerSpec
from moe.spec import Needs, Numerics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch
    from torch import Tensor

    from moe.collectives import Groups
    from moe.layer import Output
    from moe.need import Anything
    from moe.router_numerics import RouterNumerics
    from moe.spec import LayerSpec


@dataclass(frozen=True, kw_only=True)
class CheckpointMLP:
    """Hold one MLP as a checkpoint stores it: an expert, or all shared experts as one MLP.

    gate, up: [N, K]; up is None if the activation is not gated. down: [K, N]. Weights in the
    layer's dtype, or codes whose scales are float32 multipliers: [] per tensor, [O] per channel,
    [ceil(O/128), ceil(I/128)] per block of [O, I]. Sub-byte codes have two
    columns in a byte. Scales per group of columns are [O, I/group], of the format's scale dtype,
    with zero points or a global scale [] if the format has them (see `moe.formats.quant_tensor`);
    gate and up have the same global scale.
    gate_bias, up_bias: [N], and down_bias: [K], in the layer's dtype; None without biases.
    """

    gate: Tensor
    up: Tensor | None
    down: Tensor
    gate_scale: Tensor | None = None
    up_scale: Tensor | None = None
    down_scale: Tensor | None = None
    gate_zero: Tensor | None = None
    up_zero: Tensor | None = None
    down_zero: Tensor | None = None
    gate_up_global: Tensor | None = None
    down_global: Tensor | None = None
    gate_bias: Tensor | None = None
    up_bias: Tensor | None = None
    down_bias: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class CheckpointWeights:
    """Hold the weights of the whole layer, equal on every rank. The layer owns the tensors.

    gate_weight: [E, K] in the layer's dtype; `x @ gate_weight.T` is exact in that dtype and in
        float32. None if the layer takes logits.
    expert(e): returns global expert e, created on each call, so that a rank holds only the experts
        that it calls for.
    shared: the shared experts as one MLP of shared_experts * N columns, never quantized, or None.
    a1_scale, a2_scale: [] float32, static scales of the inputs of both products, or None.
    gate_bias: [E] float32, added to the router's scores for the choice alone, or None.
    """

    gate_weight: Tensor | None
    expert: Callable[[int], CheckpointMLP]
    shared: CheckpointMLP | None = None
    a1_scale: Tensor | None = None
    a2_scale: Tensor | None = None
    gate_bias: Tensor | None = None


class LayerSubject(ABC):
    """Run a whole layer on one rank. The class attributes declare what it supports.

    Cases that need more are refused: see `moe.layers.layer_row`, whose row the attributes make.
    The default group of `torch.distributed` has all ranks of the layout; `groups` has the
    subgroups, with collectives that work on every transport.
    """

    numerics: ClassVar[Numerics] = Numerics()  # where it rounds
    needs: ClassVar[Needs] = Needs()  # of the platform, dtypes, formats, sizes and packages
    takes: ClassVar[frozenset[str]] = frozenset()  # words of `moe.layers.TAKES`
    routers: ClassVar[frozenset[str] | Anything] = frozenset(
        {"softmax"}
    )  # rows of `moe.routers` that its gate computes
    # Where its router rounds, see `moe.router_numerics.StatesRounding`.
    rounding: ClassVar[RouterNumerics | None] = None
    rounding_with_bias: ClassVar[RouterNumerics | None] = None
    rounding_on: ClassVar[Mapping[str, RouterNumerics]] = {}
    takes_logits: ClassVar[bool] = False  # forward(x, logits) instead of forward(x)
    deterministic: ClassVar[bool] = False  # the same call gives the same bits
    # The bits of a token's output depend on no other token of the call, nor on their number.
    batch_invariant: ClassVar[bool] = False
    row: ClassVar[OwnLayerSpec]

    def __init_subclass__(cls, row: OwnLayerSpec | None = None, **options: Any) -> None:
        """Make the row of the class from its attributes. Raises ValueError for `schemes`.

        row: of a class that a table lists; it then declares everything.
        """
        super().__init_subclass__(**options)
        if row is not None:
            cls.row = row
            return
        if hasattr(cls, "schemes"):
            way = "needs = Needs(formats=frozenset({(weights, activations), ...}))"
            raise ValueError(f"layer {cls.__name__!r} has `schemes`; write {way}")
        cls.row = OwnLayerSpec(
            name=cls.__name__,
            target=f"{cls.__module__}:{cls.__qualname__}",
            needs=cls.needs,
            numerics=cls.numerics,
            deterministic=cls.deterministic,
            batch_invariant=cls.batch_invariant,
            takes=cls.takes,
            takes_logits=cls.takes_logits,
            routers=cls.routers,
            rounding=cls.rounding,
            rounding_with_bias=cls.rounding_with_bias,
            rounding_on=cls.rounding_on,
        )

    def __init__(
        self, layer_spec: LayerSpec, rank: int, groups: Groups, device: torch.device
    ) -> None:
        self.layer_spec = layer_spec
        self.rank = rank
        self.groups = groups
        self.device = device

    @abstractmethod
    def load(self, checkpoint: CheckpointWeights) -> None:
        """Keep this rank's shard of the weights, converted to the layer's own order and layout."""

    @abstractmethod
    def forward(self, *inputs: Tensor) -> Tensor | Output:
        """Compute the layer's output for this rank's tokens. Collective.

        Called as forward(x), or as forward(x, logits) if the layer takes logits. x: [T, K] this
        rank's tokens in the layer's dtype; logits: [T, E]; T may be 0. Returns [T, K] in the
        layer's dtype, equal on all ranks that hold the same tokens; or `moe.layer.Output`, which
        also returns the routing (global ids and float32 weights). With a routing, the routing is
        judged and the experts are judged on it. Stages that are recorded by
        `moe.intermediates.keep` are judged, too, if `ids`, `weights` and `input` are among them.
        """
