"""What an activation function is: its row, its member and its twin for the reference. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from moe.spec import ANY, Needs, Row

if TYPE_CHECKING:
    from torch import Tensor


class Activation(Protocol):
    """What `ActivationSpec.target` makes: `f(gate) * up` in float32, any shape."""

    def __call__(self, gate: Tensor, up: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Propagated:
    """`f(gate) * up` and what the reference needs to carry noise through it, elementwise.

    by_gate, by_up: the sizes of the derivatives. noise: the standard deviation that float32's own
    arithmetic has in any customary way to write the function.
    """

    value: Tensor
    by_gate: Tensor
    by_up: Tensor
    noise: Tensor


class ActivationTruth(Protocol):
    """What `ActivationSpec.truth` names; it shares no code with the member."""

    def __call__(self, gate: Tensor, up: Tensor) -> Propagated: ...


@dataclass(frozen=True, kw_only=True)
class ActivationSpec(Row):
    """One activation function.

    truth: "package.module:function", an `ActivationTruth`. identity_from: from this size of a
    positive gate on, `f(gate) == gate` in float32, and `f(0) == 0`; None where that is never so,
    and exact mode then refuses it.
    """

    needs: Needs = field(default_factory=lambda: Needs(dtypes=ANY, formats=ANY))
    truth: str
    identity_from: float | None = None
