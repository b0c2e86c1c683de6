"""Check what experts backends alone declare: activations, features of the layer, routing.

Torch-free. `moe.needs` lists these checks with the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.need import Anything, Need, fields_read, reads, resolve
from moe.reason import Reason
from moe.routing_method import DECIDED_BY, asks_for

# Tactics: ways in which a member can compute the same, such as tiles of its products.
DEFAULT_TACTIC = "default"  # the one that the member picks by itself
ALL_TACTICS = "all"  # in a matrix file: each of them, one case after the other

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


def tactics_of(target: str | None, layer_spec: LayerSpec) -> tuple[str, ...]:
    """Return the names of a member's tactics for a layer; none without `tactics` in its needs."""
    names: tuple[str, ...] = () if target is None else resolve(target)(layer_spec)
    return names


def tactic(target: str | None) -> Need:
    """Return the need that a layer asks for no tactic but those of a member.

    target: `tactics` of its needs.
    """

    def refuse(layer_spec: LayerSpec) -> Reason | None:
        name = layer_spec.tactic
        if name == DEFAULT_TACTIC:
            return None
        known = tactics_of(target, layer_spec)
        return None if name in known else _no_tactic(name, known)

    fields = frozenset() if target is None else fields_read(resolve(target))
    return Need(reads=None if fields is None else fields | {"tactic"}, refuse=refuse)


def _no_tactic(name: str, known: tuple[str, ...]) -> Reason:
    """Say that a tactic is not one of those that are known."""
    if not known:
        text = "has no tactics to choose from (`tactics` of its needs); leave `tactic` out"
    elif name == ALL_TACTICS:
        text = "takes one tactic in a case; `all` in a full block of a suite stands for each"
    else:
        text = f"has no tactic {name!r} for this layer; choose from {', '.join(known)}"
    return Reason(code="tactic_unsupported", text=text)
