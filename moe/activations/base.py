"""Define the row of an activation, and the protocols of its member and its truth. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from moe.spec import ANY, MemberSpec, Needs

if TYPE_CHECKING:
    from torch import Tensor


class Activation(Protocol):
    """Compute `f(gate) * up`; created by `ActivationSpec.target`."""

    def __call__(self, gate: Tensor, up: Tensor) -> Tensor:
        """Return `f(gate) * up` in float32. gate, up: float32, of one shape."""


@dataclass(frozen=True, kw_only=True)
class Propagated:
    """Hold `f(gate) * up` and what the reference needs to propagate noise, elementwise."""

    value: Tensor
    by_gate: Tensor  # absolute value of the derivative by gate
    by_up: Tensor  # absolute value of the derivative by up
    noise: Tensor  # standard deviation of customary float32 implementations


class ActivationTruth(Protocol):
    """Compute an activation for the reference; named by `ActivationSpec.truth`.

    It shares no code with the member.
    """

    def __call__(self, gate: Tensor, up: Tensor) -> Propagated:
        """Return `f(gate) * up`, derivatives and noise. gate, up: of one shape."""


@dataclass(frozen=True, kw_only=True)
class ActivationSpec(MemberSpec):
    """Declare one activation function.

    truth: "package.module:function", an `ActivationTruth`.
    identity_from: `f(0) == 0`, and `f(gate) == gate` in float32 for gates of at least this; None if
        there is no such value, and exact mode then refuses the activation.
    """

    needs: Needs = field(default_factory=lambda: Needs(dtypes=ANY, formats=ANY))
    truth: str
    identity_from: float | None = None
