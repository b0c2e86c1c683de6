"""Check what experts backends alone declare: activations, features of the layer, routing.

Torch-free. `moe.needs` lists these checks with the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.need import Anything, Need, reads
from moe.reason import Reason
from moe.routing_method import DECIDED_BY, asks_for

if TYPE_CHECKING:
    from moe.needs import Needs
    from moe.spec import LayerSpec, Platform


@reads("activation")
def activation(needs: Needs, _: Platform, layer_spec: LayerSpec) -> Reason | None:
    """Refuse an activation function that is not in `activation_functions`."""
    supported = needs.activation_functions
    if isinstance(supported, Anything) or layer_spec.activation in supported:
        return None
    text = f"computes the activation {', '.join(sorted(supported))}, not {layer_spec.activation}"
    return Reason(code="activation_unsupported", text=text)


@reads("shared_fused", "zero_experts", "expert_bias", "latent")
def layer_features(needs: Needs, _: Platform, layer_spec: LayerSpec) -> Reason | None:
    """Refuse a feature of the layer that is not in `layer_features`."""
    supported = needs.layer_features
    if isinstance(supported, Anything):
        return None
    missing = sorted(layer_spec.layer_features - supported)
    if not missing:
        return None
    text = f"does not name {missing[0]!r} in its layer_features"
    return Reason(code=f"{missing[0]}_unsupported", text=text)


@reads("router")
def routers(needs: Needs, _: Platform, layer_spec: LayerSpec) -> Reason | None:
    """Refuse a router that is not in `routers`."""
    supported = needs.routers
    if supported is None or isinstance(supported, Anything) or layer_spec.router in supported:
        return None
    text = f"routes by {', '.join(sorted(supported))}, not {layer_spec.router}"
    return Reason(code="router_unsupported", text=text)


def unnamed_option(word: str) -> Need:
    """Return the need that a layer does not ask for an option that `routing_options` leaves out."""

    def refuse(layer_spec: LayerSpec) -> Reason | None:
        if not asks_for(layer_spec, word):
            return None
        text = f"routes by itself, and does not name {word!r} in its `routing_options`"
        return Reason(code="routing_option_unsupported", text=text)

    return Need(reads=frozenset(DECIDED_BY[word]), refuse=refuse)
