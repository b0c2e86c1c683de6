"""Declare what a member needs of a layer and a platform, and refuse where a need does not hold.

A capability that a row does not name is not supported, so that a row written today claims nothing
of an axis that is added tomorrow. Each set of values defaults to the plain one; a row that supports
every value says `ANY`. Sizes and ranks are limits; the default is no limit.

Each need names the fields of the layer that it reads, so that a plan evaluates it only once for
equal values. Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from moe import experts_needs, roundup
from moe.capability_needs import CAPABILITY_CHECKS
from moe.need import ANY, Anything, FormatsOn, Need, fields_read, first_refusal, reads, resolve
from moe.needs_form import check_needs
from moe.packages import Package
from moe.packages import refusal as package_refusal
from moe.routing_method import DECIDED_BY

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from moe.reason import Reason
    from moe.roundup import Alignment
    from moe.spec import LayerSpec, Platform

_SIZES = frozenset({"hidden", "intermediate", "latent"})  # fields of a layer that padding changes
# Fields that decide on padded sizes.
_PADDING = _SIZES | {"layout", "scheme", "pads", "roundup"}
# Fields of Needs that are not checked for other families; `padding`, `adapters` and `eplb` are, for
# all2all backends.
EXPERTS_ONLY = ("activation_functions", "dequantizes", "routers", "layer_features", "tactics")
ALL2ALL_ONLY = ("spanning_scales", "capacity")
_PLAIN = (*EXPERTS_ONLY, *ALL2ALL_ONLY, "padding", "adapters", "moe_tp", "eplb")
UNQUANTIZED = frozenset({("model", "model")})


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Declare the values of each axis that a member supports, and what the platform must have.

    Raises ValueError for a field of another form, such as a string in place of a set.
    """

    features: frozenset[str] = frozenset()  # required of the platform, all of them
    dtypes: frozenset[str] | Anything = frozenset({"bf16"})  # keys of DTYPE_BYTES
    # Supported pairs of keys of FORMATS: (Scheme.weights, Scheme.activations).
    formats: frozenset[tuple[str, str]] | Anything = UNQUANTIZED
    # More pairs, on some chips only.
    formats_on: tuple[FormatsOn, ...] = ()
    # Whether codes are turned into float values before any product. A member that multiplies codes
    # needs the platform features that the formats name in their own `needs`, such as `fp8_e4m3`.
    # Checked for experts backends and whole layers only.
    dequantizes: bool = False
    # Supported rows of `moe.activations`. Checked for experts backends and whole layers only.
    activation_functions: frozenset[str] | Anything = frozenset({"silu"})
    # Supported features of `moe.spec.FEATURES`, such as fused shared experts. Checked for experts
    # backends and whole layers only.
    layer_features: frozenset[str] | Anything = frozenset()
    # Supported rows of `moe.routers`, of a monolithic experts backend; None: routing is not its
    # job, so that each router will do. Checked for experts backends only.
    routers: frozenset[str] | Anything | None = None
    # "module:function", called with (layer_spec) -> names of the tactics among which it can be told
    # to choose, `LayerSpec.tactic`; None: there is no choice. Checked for experts backends and
    # whole layers only.
    tactics: str | None = None
    # What else it takes of a `RoutingMethod`: words of its OPTIONS, and `weights_input`.
    routing_options: frozenset[str] = frozenset()
    # Whether padding rows may stand anywhere: their `topk_ids` are all -1, their values garbage,
    # and no other row may depend on them. Checked for experts and all2all backends only.
    padding: bool = False
    # Whether each token's low-rank adapter is known to the experts: carried with the token by an
    # all2all backend, added to its products by an experts backend. Checked for these two only.
    adapters: bool = False
    # Ways of calling beside one call after another: `compile` (torch.compile makes one graph of
    # it), `graph` (a CUDA graph captures it), `two_batches` (two calls take turns at its stages).
    # Checked by who plans calls, for experts and all2all backends, routers and whole layers.
    call_modes: frozenset[str] = frozenset()
    # Further ones that an all2all backend stands in a group of one rank, where nothing is sent.
    alone_call_modes: frozenset[str] = frozenset()
    # Whether experts may have replicas that move while the layer lives. An experts backend lists
    # its `expert_tensors`; an all2all backend goes by physical ids, if it reads ids at all. Checked
    # for these two and for whole layers.
    eplb: bool = False
    # Whether a dynamic scale over all rows of a call may be taken of the rows that reach a rank: an
    # all2all backend that brings every row to every rank. Checked for these only.
    spanning_scales: bool = False
    # Whether each expert may have a fixed number of rows. Checked for all2all backends only.
    capacity: bool = False
    # Whether experts may be spread over some ranks and split over others (`moe_tp_size` of the
    # layout). Checked for experts and all2all backends only.
    moe_tp: bool = False
    # Whether each rank must have a device of its own. Checked by who plans ranks, for all2all
    # backends; those that need the feature `peer_memory` need that, too.
    own_device: bool = False
    hidden_multiple: int = 1  # the hidden size must be a multiple of this
    shard_multiple: int = 1  # the same for the intermediate size on each rank
    # More multiples, of some weight formats on some chips.
    alignments: tuple[Alignment, ...] = ()
    max_world: int | None = None  # largest number of ranks; None: no limit
    # Names that must be importable, or packages with their versions and what is called of them.
    packages: tuple[str | Package, ...] = ()
    # "module:function", called with (layer_spec, platform) -> Reason | None, for conditions that
    # only code can check. Without `reads` on the function it is called again for each new layer.
    probe: str | None = None

    def __post_init__(self) -> None:
        check_needs(self)

    def asked(self, platform: Platform, *, leave_out: Container[str] = _PLAIN) -> tuple[Need, ...]:
        """Return the needs that can refuse a layer on this platform, in the order of checking.

        leave_out: fields of Needs that are not checked. The probe is loaded only if the features
        and packages are there.
        """
        needs = [
            Need.of(check, self, platform)
            for name, (unrestricted, check) in _CHECKS.items()
            if name not in leave_out and getattr(self, name) != unrestricted
        ]
        if self.routers is not None and "routers" not in leave_out:
            needs += [
                experts_needs.unnamed_option(w) for w in DECIDED_BY if w not in self.routing_options
            ]
        if "tactics" not in leave_out:
            needs.append(experts_needs.tactic(self.tactics))
        if self.probe is not None and self.are_met_by(platform):
            needs.append(_probe(self, platform))
        return tuple(needs)

    def formats_for(self, platform: Platform) -> frozenset[tuple[str, str]] | Anything:
        """Return the pairs of formats that are supported on a platform."""
        if isinstance(self.formats, Anything):
            return self.formats
        more = (on.formats for on in self.formats_on if on.features <= platform.features)
        return self.formats.union(*more)

    def are_met_by(self, platform: Platform) -> bool:
        """Return whether the platform has all features, and no package is refused."""
        return self.features <= platform.features and not any(map(package_refusal, self.packages))

    def refusal(self, layer_spec: LayerSpec, platform: Platform) -> Reason | None:
        """Return the reason of the first need that does not hold, or None."""
        return first_refusal(self.asked(platform), layer_spec)


def experts_refusal(needs: Needs, layer_spec: LayerSpec, platform: Platform) -> Reason | None:
    """Return `Needs.refusal`, with the fields that are checked for experts backends only."""
    return first_refusal(needs.asked(platform, leave_out=ALL2ALL_ONLY), layer_spec)


def all2all_refusal(needs: Needs, layer_spec: LayerSpec, platform: Platform) -> Reason | None:
    """Return `Needs.refusal`, with the fields that are checked for all2all backends, too."""
    return first_refusal(needs.asked(platform, leave_out=EXPERTS_ONLY), layer_spec)


@reads()
def _packages(needs: Needs, _: Platform, __: LayerSpec) -> Reason | None:
    """Refuse if one of `packages` will not do."""
    return next(filter(None, map(package_refusal, needs.packages)), None)


def _probe(needs: Needs, platform: Platform) -> Need:
    """Load the row's probe and return its need; one that reads sizes sees the padded ones."""
    function = resolve(str(needs.probe))
    fields = fields_read(function)
    if fields is not None and not fields & _SIZES:
        return Need(reads=fields, refuse=lambda layer_spec: function(layer_spec, platform))

    def refuse(layer_spec: LayerSpec) -> Reason | None:
        seen = roundup.PaddedView(layer_spec, needs, platform.features)
        return cast("Reason | None", function(seen, platform))

    return Need(reads=None if fields is None else fields | _PADDING, refuse=refuse)


# Field of Needs, in the order of checking -> the value that restricts nothing, and the check.
_CHECKS: dict[str, tuple[object, Callable[[Needs, Platform, LayerSpec], Reason | None]]] = {
    "activation_functions": (ANY, experts_needs.activation),
    "layer_features": (ANY, experts_needs.layer_features),
    "routers": (None, experts_needs.routers),
    **CAPABILITY_CHECKS,
    "packages": ((), _packages),
}
