"""Declare a whole layer: its row, what it may take, and how it refuses what it does not take.

A layer is listed in `moe.layers`. Torch-free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moe.need import Anything
from moe.needs import ALL2ALL_ONLY
from moe.needs_form import check_names
from moe.router_numerics import StatesRounding
from moe.spec import ROUTING_FIELDS, MemberSpec, Need, Reason, first_refusal, reads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moe.layout import Layout
    from moe.spec import LayerSpec, Platform

# Words for `takes` -> the reason code of the refusal if a layer does not name them.
TAKES = {
    "dp": "layout_unsupported",
    "tp": "layout_unsupported",
    "ep": "layout_unsupported",
    "sp": "layout_unsupported",
    "pcp": "layout_unsupported",
    "moe_tp": "layout_unsupported",
    "expert_dp": "layout_unsupported",
    "shared": "shared_experts_unsupported",
    "sharedn": "shared_experts_unsupported",
    "sharedquant": "shared_experts_unsupported",
    "sharedgate": "shared_experts_unsupported",
    "no_renorm": "renormalize_unsupported",
    "bias": "router_unsupported",
    "groups": "router_unsupported",
    "scale": "router_unsupported",
    "logits_dtype": "router_unsupported",
    "weights_input": "router_unsupported",
}


@dataclass(frozen=True, kw_only=True)
class OwnLayerSpec(MemberSpec, StatesRounding):
    """Declare a whole layer and what it supports. Raises ValueError for an unknown `takes`.

    takes: words of TAKES, spelled as in case ids. rounding: of its own router, as a router's row
    states it.
    takes_logits: the layer is called with router logits and needs no gate of its own.
    """

    takes: frozenset[str] = frozenset()
    takes_logits: bool = False
    routers: frozenset[str] | Anything = frozenset({"softmax"})  # rows of `moe.routers`

    def __post_init__(self) -> None:
        super().__post_init__()
        check_names(f"`takes` of layer {self.name!r}", self.takes, "tp", or_any=False)
        check_names(f"`routers` of layer {self.name!r}", self.routers, "softmax")
        unknown = sorted(self.takes - set(TAKES))
        if unknown:
            known = ", ".join(TAKES)
            raise ValueError(f"layer {self.name!r} takes {unknown[0]!r}; choose from {known}")

    def asked(self, platform: Platform) -> tuple[Need, ...]:
        """Return the needs that can refuse a layer on this platform, in the order of checking."""
        checks = (self._not_taken, self._formats, self._no_gate, self._router, self._padding)
        return (
            *(Need.of(check) for check in checks),
            *self.needs.asked(platform, leave_out=("formats", *ALL2ALL_ONLY)),
        )

    def refusal(self, layer_spec: LayerSpec, platform: Platform) -> Reason | None:
        """Return the reason of the first need that does not hold, or None."""
        return first_refusal(self.asked(platform), layer_spec)

    @reads(
        *("layout", "shared_experts", "shared_width", "shared_scheme", "shared_gate"),
        *ROUTING_FIELDS,
    )
    def _not_taken(self, layer_spec: LayerSpec) -> Reason | None:
        """Refuse a layout or an option that `takes` does not name."""
        for word in _words_of(layer_spec):
            if word not in self.takes:
                text = f"does not name {word!r} in its `takes`"
                return Reason(code=TAKES[word], text=text)
        return None

    @reads("scheme")
    def _formats(self, layer_spec: LayerSpec) -> Reason | None:
        """Refuse a pair with one reason code: a whole layer has no separate member for either."""
        scheme, supported = layer_spec.scheme, self.needs.formats
        if isinstance(supported, Anything) or (scheme.weights, scheme.activations) in supported:
            return None
        pairs = ", ".join(" with ".join(pair) for pair in sorted(supported))
        text = f"takes {pairs}, not {scheme.weights} with {scheme.activations}"
        return Reason(code="scheme_unsupported", text=text)

    @reads("router")
    def _router(self, layer_spec: LayerSpec) -> Reason | None:
        """Refuse a router that is not in `routers`."""
        if isinstance(self.routers, Anything) or layer_spec.router in self.routers:
            return None
        text = f"has the router {', '.join(sorted(self.routers))}, not {layer_spec.router}"
        return Reason(code="router_unsupported", text=text)

    @reads("padding")
    def _padding(self, layer_spec: LayerSpec) -> Reason | None:
        """Refuse padding rows: a layer that routes by itself cannot be told which they are."""
        if not layer_spec.padding:
            return None
        text = "routes by itself, and is not told which rows are padding; leave `padding` out"
        return Reason(code="padding_unsupported", text=text)

    @reads("num_experts", "hidden", "gate")
    def _no_gate(self, layer_spec: LayerSpec) -> Reason | None:
        """Refuse more experts than hidden columns, since each expert's logit is one column."""
        if layer_spec.gate:
            text = "the gate of `gate` is the composed layer's; this layer has its own"
            return Reason(code="gate_unsupported", text=text)
        if self.takes_logits or layer_spec.num_experts <= layer_spec.hidden:
            return None
        text = (
            "its gate reads one hidden column per expert, and "
            f"{layer_spec.num_experts} experts are more than {layer_spec.hidden} columns"
        )
        return Reason(code="gate_not_realisable", text=text)


def _words_of(layer_spec: LayerSpec) -> Iterator[str]:
    """Yield the words of TAKES that a layer must name to support this layer."""
    yield from layout_words(layer_spec.layout)
    if layer_spec.shared_experts:
        yield "shared"
    if layer_spec.shared_width:
        yield "sharedn"
    if layer_spec.shared_scheme.weights != "model":
        yield "sharedquant"
    if layer_spec.shared_gate:
        yield "sharedgate"
    if not layer_spec.renormalize:
        yield "no_renorm"
    yield from layer_spec.routing_method.options
    if layer_spec.weights_input:
        yield "weights_input"


def layout_words(layout: Layout) -> list[str]:
    """Return the words of TAKES that a layer must name to support this layout."""
    required = {
        "dp": layout.dp_size > 1,
        "tp": layout.tp_size > 1,
        "ep": layout.use_ep and layout.world_size > 1,
        "sp": layout.sequence_parallel,
        "pcp": layout.pcp_size > 1,
        "moe_tp": layout.moe_tp_size > 1,
        "expert_dp": layout.expert_dp_size > 1,
    }
    return [word for word, is_required in required.items() if is_required]
