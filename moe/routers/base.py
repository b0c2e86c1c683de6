"""Define the row of a router, and the protocols of its member and of its truth. Torch-free."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from moe.needs_form import check_names
from moe.router_numerics import RouterNumerics, StatesRounding, alternatives, only_of_weights
from moe.routing_method import DECIDED_BY, OPTIONS, asks_for
from moe.spec import ANY, MemberSpec, Need, Needs, Reason

if TYPE_CHECKING:
    from torch import Tensor

    from moe.routing_method import RoutingMethod
    from moe.spec import LayerSpec, Platform
    from moe.types import Routing


class Router(Protocol):
    """Select experts and their weights; created by `RouterSpec.target`."""

    def __call__(self, logits: Tensor, top_k: int, *, renormalize: bool, **options: Any) -> Routing:
        """Return the routing, [T, k], with global ids and weights in float32.

        logits: [T, E], any float dtype. renormalize: divide the weights of the selected experts by
        their sum. The choice between equal scores is undefined.

        options: only those that the row names in `takes`, each only where the layer asks for it:
        bias [E] float32, added to the scores for the choice alone; groups and chosen_groups; scale,
        a factor of the weights. `moe.routing_method` says what they mean.
        """


@dataclass(frozen=True, kw_only=True)
class RoutingOptions:
    """Hold what a call of a router asks for, as `Router` describes it; by default nothing."""

    renormalize: bool
    bias: Tensor | None = None
    groups: int = 1
    chosen_groups: int = 1
    scale: float = 1.0


class OptionsRouter(ABC):
    """Take the options of a call as one value, for a member that passes them on to a package."""

    def __call__(self, logits: Tensor, top_k: int, **options: Any) -> Routing:
        """Return what `Router` asks for. Raises TypeError for an option that no router has."""
        return self.routed(logits, top_k, RoutingOptions(**options))

    @abstractmethod
    def routed(self, logits: Tensor, top_k: int, options: RoutingOptions) -> Routing:
        """Return the routing, [T, k], of logits [T, E]."""


class RouterTruth(Protocol):
    """Compute a router for the reference; created by `RouterSpec.truth`, independent of the member.

    gap: the smallest difference of logits at which float32 and 16-bit implementations all make the
    same choice. `scores` is only called if the row takes a bias or groups. A truth whose scores are
    computed in two steps, which a router may round between, also has `inner(logits)` [T, E] float64
    and `outer(inner)`.
    """

    gap: float

    def scores(self, logits: Tensor) -> Tensor:
        """Return the scores of all experts, [T, E] float64, rising with the logits."""

    def choose(self, logits: Tensor, top_k: int) -> Tensor:
        """Return ids, [T, k] int32, best first; equal logits by ascending id. logits: [T, E]."""

    def weights(self, logits: Tensor, topk_ids: Tensor, *, renormalize: bool) -> Tensor:
        """Return the weights of these experts, [T, k] float32.

        logits: [T, E]. topk_ids: [T, k] without -1.
        """

    def is_valid(self, logits: Tensor, is_selected: Tensor, noise: float) -> Tensor:
        """Return for each token whether no unselected expert scores higher, [T] bool.

        logits: [T, E]. is_selected: [T, E] bool. noise: relative error that is tolerated.
        """


# Of a router in plain torch operations, none of which waits for a device.
TORCH_NEEDS = Needs(
    dtypes=ANY, formats=ANY, call_modes=frozenset({"compile", "graph", "two_batches"})
)


@dataclass(frozen=True, kw_only=True)
class RouterSpec(MemberSpec, StatesRounding):
    """Declare one router. Raises ValueError for an unknown word in `takes`.

    is_judged: whether `truth` is that of this router; otherwise its choice and weights are taken as
    they are, and `truth` only stands in where any choice will do.
    nan_as_zero: whether a token whose logits hold a NaN gets weights of 0, where other routers show
    it by a weight of NaN or by no expert.
    takes: words of `moe.routing_method.OPTIONS`; a layer that asks for others is refused.
    truth: "package.module:Class", a `RouterTruth`. sums_to_one: whether the weights of all experts
    sum to 1 before renormalisation. always_renormalizes: whether the chosen weights sum to 1
    whatever `renormalize` says, as those of a softmax over the chosen experts do. saturated_at: a
    logit whose score is 1 in float32, so that sums of equal scores are exact; None if there is none
    (exact mode then compares such a router's outputs with the ordinary tolerances, unless its
    weights sum to 1).
    """

    needs: Needs = field(default_factory=lambda: Needs(dtypes=ANY, formats=ANY))
    truth: str
    sums_to_one: bool
    always_renormalizes: bool = False
    saturated_at: float | None = None
    takes: frozenset[str] = frozenset()
    is_judged: bool = True
    nan_as_zero: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names(f"`takes` of router {self.name!r}", self.takes, "bias", or_any=False)
        unknown = sorted(self.takes - set(OPTIONS))
        if unknown:
            known = ", ".join(OPTIONS)
            raise ValueError(f"router {self.name!r} takes {unknown[0]!r}; choose from {known}")
        self._check_log_sum()

    def _check_log_sum(self) -> None:
        """Raise ValueError if steps of a softmax are stated of other scores."""
        stated = (self.rounding, self.rounding_with_bias, *self.rounding_on.values())
        is_stated = any(numerics and numerics.log_sum != "f32" for numerics in stated)
        if is_stated and not self.sums_to_one:
            text = f"router {self.name!r} states `log_sum`, a step of a softmax, but its "
            raise ValueError(
                f"{text}row does not say `sums_to_one`; add it, or leave `log_sum` out"
            )

    def silenced(self) -> RouterSpec:
        """Return the row without the roundings that it states."""
        return replace(self, rounding=None, rounding_with_bias=None, rounding_on={})

    def roundings(
        self, method: RoutingMethod, dtype: str, device: str = "cpu"
    ) -> tuple[RouterNumerics, ...]:
        """Return the resolved numerics by which it may be right: one, unless its row is silent.

        dtype: the layer's. device: a torch device type.
        """
        return tuple(self.stated_roundings(method, dtype, device))

    def stated_roundings(
        self, method: RoutingMethod, dtype: str, device: str = "cpu"
    ) -> dict[RouterNumerics, RouterNumerics]:
        """Return the resolved numerics of `roundings`, each with how a row would state it."""
        stated = self.stated_rounding(device, bias=method.bias)
        renormalizes = method.renormalize or self.always_renormalizes
        logits = dtype if method.logits_dtype == "model" else method.logits_dtype
        layer = {"bias": method.bias, "renormalize": renormalizes}
        tried = alternatives(stated, logits=logits, model=dtype, **layer)
        if not self.always_renormalizes:
            return tried
        # It chooses by logits and has no other scores than weights.
        of_weights: dict[RouterNumerics, RouterNumerics] = {}
        for resolved, numerics in tried.items():
            of_weights.setdefault(only_of_weights(resolved), numerics)
        return of_weights

    def asked(self, platform: Platform) -> tuple[Need, ...]:
        """Return the needs that can refuse a layer on this platform, in the order of checking."""
        missing = (word for word in OPTIONS if word not in self.takes)
        return (*(_untaken(word) for word in missing), *self.needs.asked(platform))


def _untaken(word: str) -> Need:
    """Return the need that a layer does not ask for an option; it reads what decides that alone."""

    def refuse(layer_spec: LayerSpec) -> Reason | None:
        if not asks_for(layer_spec, word):
            return None
        text = f"does not name {word!r} in its `takes`"
        return Reason(code="router_unsupported", text=text)

    return Need(reads=frozenset(DECIDED_BY[word]), refuse=refuse)
