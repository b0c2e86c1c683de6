"""What a whole layer under test is: checkpoint weights once, then hidden states in and out.

Derive from `LayerSubject`. The layer has its own gate, router, experts and collectives; it shards
and converts the weights by itself. docs/your-own-layer.md shows one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from moe.layers import LayerRow
from moe.spec import Needs, Numerics

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from torch import Tensor

    from moe.collectives import Groups
    from moe.layer import Output
    from moe.needs import Anything
    from moe.spec import Problem


@dataclass(frozen=True, kw_only=True)
class CheckpointMLP:
    """One gated MLP as a checkpoint stores it: an expert, or all shared experts as one.

    gate, up: [N, K]. down: [K, N]. Weights in the layer's dtype, or codes whose scales are float32
    multipliers: [] per tensor, [O] per channel, [ceil(O/128), ceil(I/128)] per block of [O, I].
    """

    gate: Tensor
    up: Tensor
    down: Tensor
    gate_scale: Tensor | None = None
    up_scale: Tensor | None = None
    down_scale: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class CheckpointWeights:
    """The weights of the whole layer, the same on every rank; all tensors are the layer's to keep.

    gate_weight: [E, K] in the layer's dtype; `x @ gate_weight.T` is exact in that dtype and in
        float32. None where the layer takes logits.
    expert(e): global expert e, made on each call, so that a rank holds what it asks for.
    shared: the shared experts as one MLP of shared_experts * N columns, never quantized, or None.
    a1_scale, a2_scale: [] float32, static scales of both products' inputs, where the scheme has
        them.
    gate_bias: [E] added to the router's scores. None: no router of today's has one.
    """

    gate_weight: Tensor | None
    expert: Callable[[int], CheckpointMLP]
    shared: CheckpointMLP | None = None
    a1_scale: Tensor | None = None
    a2_scale: Tensor | None = None
    gate_bias: Tensor | None = None


class LayerSubject(ABC):
    """A whole layer on one rank; the class attributes say what it can do.

    What an attribute does not name is not asked of the layer: see `moe.layers.LayerRow`, which is
    made from them. `torch.distributed`'s default group has all ranks of the layout; `groups` has
    the subgroups, with collectives that work on every transport.
    """

    numerics: ClassVar[Numerics] = Numerics()  # where it rounds
    needs: ClassVar[Needs] = Needs()  # of the platform, dtypes, formats, sizes and packages
    takes: ClassVar[frozenset[str]] = frozenset()  # of dp, tp, ep, sp, shared, no_renorm
    routers: ClassVar[frozenset[str] | Anything] = frozenset({"softmax"})  # what its gate does
    takes_logits: ClassVar[bool] = False  # forward(x, logits) instead of forward(x)
    deterministic: ClassVar[bool] = False  # the same call gives the same bits
    row: ClassVar[LayerRow]

    def __init_subclass__(cls, **options: Any) -> None:
        """Make the class's row from its attributes. Raises ValueError for pairs as `schemes`."""
        super().__init_subclass__(**options)
        if hasattr(cls, "schemes"):
            way = "needs = Needs(formats=frozenset({(weights, activations), ...}))"
            raise ValueError(f"layer {cls.__name__!r} has `schemes`; write {way}")
        cls.row = LayerRow(
            name=cls.__name__,
            target=f"{cls.__module__}:{cls.__qualname__}",
            needs=cls.needs,
            numerics=cls.numerics,
            deterministic=cls.deterministic,
            takes=cls.takes,
            takes_logits=cls.takes_logits,
            routers=cls.routers,
        )

    def __init__(self, problem: Problem, rank: int, groups: Groups, device: torch.device) -> None:
        self.problem = problem
        self.rank = rank
        self.groups = groups
        self.device = device

    @abstractmethod
    def load(self, checkpoint: CheckpointWeights) -> None:
        """Keep this rank's shard of the weights, converted as the layer wants it."""

    @abstractmethod
    def forward(self, *inputs: Tensor) -> Tensor | Output:
        """Collective. Called as forward(x), or as forward(x, logits) where it takes logits.

        x: [T, K] this rank's tokens in the layer's dtype; logits: [T, E]; T may be 0. Returns
        [T, K] in the layer's dtype, the same on all ranks that hold the same tokens; or
        `moe.layer.Output`, which also hands out the routing (global ids and float32 weights).
        Then the routing is judged, the experts are judged on it, and so are the stages that are
        handed out by `moe.intermediates.keep`, once `ids`, `weights` and `input` are among them.
        """
