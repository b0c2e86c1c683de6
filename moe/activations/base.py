"""Define the row of an activation, and the protocols of its member and its truth. Torch-free.

An activation computes `f(min(gate, limit)) * (clamp(up, -limit, limit) + beta)`, or `f(x)` alone if
it is not gated. The parameters are part of the row: a model's checkpoint fixes them, and a kernel
is compiled for them. A model with other values has a row of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from moe.spec import ANY, MemberSpec, Needs

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST_NORMAL = 2.0**-126  # float32 below it may be flushed to zero by hardware


class Activation(Protocol):
    """Compute the activation; created by `ActivationSpec.target`."""

    def __call__(self, gate: Tensor, up: Tensor | None) -> Tensor:
        """Return `f(gate) * up` in float32, with the row's limit and beta.

        gate, up: float32, of one shape. up: None if the row is not gated; returns `f(gate)`.
        """


@dataclass(frozen=True, kw_only=True)
class Propagated:
    """Hold f(x) and what the reference needs to propagate noise, elementwise."""

    value: Tensor
    slope: Tensor  # absolute value of the derivative
    noise: Tensor  # standard deviation of customary float32 implementations


class ActivationTruth(Protocol):
    """Compute f for the reference; named by `ActivationSpec.truth`.

    It shares no code with the member. The reference applies the row's limit and beta itself.
    """

    def __call__(self, x: Tensor) -> Propagated:
        """Return f(x), its slope and its noise. x: any shape."""


@dataclass(frozen=True, kw_only=True)
class ActivationSpec(MemberSpec):
    """Declare one activation function.

    truth: "package.module:function", an `ActivationTruth`.
    identity_from: `f(0) == 0`, and `f(gate) == gate` in float32 for gates of at least this; None if
        there is no such value, and exact mode then refuses the activation.
    gated: whether an expert has a gate and an up matrix; otherwise w13 is one matrix, [e, N, K].
    function: f as this project's kernels name it: "swish" (x * sigmoid(alpha * x)), "gelu" (by
        erf), "gelu_tanh" or "relu2" (max(x, 0) ** 2); None: only the member computes it.
    limit: gates above it, and ups beyond it on either side, are clamped to it; None: no limit.
    beta: is added to up after the clamp.

    Raises ValueError for a beta without a gate and for a limit that is not positive.
    """

    needs: Needs = field(default_factory=lambda: Needs(dtypes=ANY, formats=ANY))
    truth: str
    identity_from: float | None = None
    gated: bool = True
    function: str | None = None
    alpha: float = 1.0
    beta: float = 0.0
    limit: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta and not self.gated:
            raise ValueError(
                f"activation {self.name!r} has beta {self.beta:g}, which is added to up, but is "
                "not gated; set beta to 0"
            )
        if self.limit is not None and self.limit <= 0:
            raise ValueError(
                f"activation {self.name!r} has limit {self.limit:g}; it must be positive, or None"
            )
