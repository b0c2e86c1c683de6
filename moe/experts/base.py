"""What an experts backend is: weights once, then tokens in and this rank's share out.

A backend is *modular* and *standard* (see `kind` and `dispatch_format` in `moe.spec`): contiguous
tokens come in with their routing, and the weighted sum over this rank's experts goes out; sums over
ranks belong to the all2all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from moe.activations import ACTIVATIONS
from moe.types import TORCH_DTYPE

if TYPE_CHECKING:
    from torch import Tensor

    from moe.activations.base import Activation
    from moe.quant.base import QuantMethod
    from moe.spec import Numerics, Problem
    from moe.types import Activations, Dispatched, ExpertWeights, Routing


class Experts(ABC):
    """The experts of one rank. `numerics` are those of the member's row: what it promises."""

    def __init__(self, problem: Problem, rank: int, numerics: Numerics, quant: QuantMethod) -> None:
        self.problem = problem
        self.rank = rank
        self.numerics = numerics
        self.quant = quant
        self.dtype = TORCH_DTYPE[problem.dtype]  # of the output
        self.activation: Activation = ACTIVATIONS.load(problem.activation)()
        self.num_local = len(problem.experts_of(rank))

    @abstractmethod
    def prepare_weights(self, weights: ExpertWeights) -> None:
        """Keep this rank's shard, converted to the backend's own order and layout.

        weights: [gate; up] order, e = this rank's experts, n = its intermediate columns.
        """

    def run(self, dispatched: Dispatched) -> Tensor:
        """Compute what an all2all backend has prepared, its ids made local, by `apply`."""
        return self.apply(dispatched.x, dispatched.routing)

    @abstractmethod
    def apply(self, x: Activations, routing: Routing) -> Tensor:
        """out: [T, K] model dtype, the sum over this rank's experts of weight * expert(x).

        x: [T, K] activations, quantized by `quant.quantize_input` (T may be 0).
        routing.topk_ids: [T, k] int32 *local* ids, -1 = not on this rank or padding. A row of
        only -1 that is a real token must come out as zeros; other ranks add to it.
        """
