"""What a router is: its row, its member and its twin for the reference. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from moe.spec import ANY, Needs, Row

if TYPE_CHECKING:
    from torch import Tensor

    from moe.types import Routing


class Router(Protocol):
    """What `RouterSpec.target` makes."""

    def __call__(self, logits: Tensor, top_k: int, *, renormalize: bool) -> Routing:
        """logits: [T, E] any float dtype -> Routing of [T, k], weights in float32.

        `renormalize` divides the chosen weights by their sum. Which of two equal logits wins is
        not defined.
        """


class RouterTruth(Protocol):
    """What `RouterSpec.truth` makes; it shares no code with the member.

    gap: how far apart logits must be, at least, for the choice between them to be unambiguous in
    any customary arithmetic.
    """

    gap: float

    def choose(self, logits: Tensor, top_k: int) -> Tensor:
        """[T, E] -> [T, k] int32 ids, best first, the lower id first among equals."""

    def weights(self, logits: Tensor, topk_ids: Tensor, *, renormalize: bool) -> Tensor:
        """[T, E], [T, k] ids without -1 -> [T, k] float32 weights of these experts."""

    def is_valid(self, logits: Tensor, chosen: Tensor, noise: float) -> Tensor:
        """[T] whether no unchosen expert is better; chosen: [T, E] bool; noise: relative."""


@dataclass(frozen=True, kw_only=True)
class RouterSpec(Row):
    """One router.

    truth: "package.module:Class", a `RouterTruth`. sums_to_one: the weights of all experts
    together, before any renormalisation. always_renormalizes: the chosen weights sum to one
    whatever `renormalize` says, as those of a softmax over the chosen experts do.
    """

    needs: Needs = field(default_factory=lambda: Needs(dtypes=ANY, formats=ANY))
    truth: str
    sums_to_one: bool
    always_renormalizes: bool = False
