"""`RoutingMethod`: one value that says completely how a layer routes its tokens. Torch-free.

The layer's router gets it, and so does a backend that routes by itself, which must not fix any part
of it: it asks `LayerSpec.routing_method`.

Scores are a function of the router's logits, which the router row names. With a bias, experts are
chosen by score + bias and weighed by the score alone. With groups, neighbouring experts form groups
of equal size; a group's score is the sum of its two highest score + bias, and only experts of the
`chosen_groups` best groups can be chosen. Weights are renormalised, then multiplied by `scale`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from moe.need import reads
from moe.reason import Reason

if TYPE_CHECKING:
    from moe.spec import LayerSpec, Platform

# What a router row must name in its `takes` to be asked for it.
BIAS, GROUPS, SCALE, LOGITS_DTYPE = "bias", "groups", "scale", "logits_dtype"
OPTIONS = (BIAS, GROUPS, SCALE, LOGITS_DTYPE)
WEIGHTS_INPUT = "weights_input"  # what only a backend that routes by itself must name, too
# Fields of a layer that decide whether it asks for a word.
DECIDED_BY = {
    BIAS: ("router_bias",),
    GROUPS: ("router_groups", "chosen_groups"),
    SCALE: ("router_scale",),
    LOGITS_DTYPE: ("logits_dtype",),
    WEIGHTS_INPUT: ("weights_input",),
}


def asks_for(layer_spec: LayerSpec, word: str) -> bool:
    """Return whether a layer asks for a word of DECIDED_BY. Reads no other of its fields."""
    match word:
        case "groups":
            return layer_spec.chosen_groups < layer_spec.router_groups
        case "scale":
            return layer_spec.router_scale != 1.0
        case "logits_dtype":
            return layer_spec.logits_dtype != "model"
    return bool(getattr(layer_spec, *DECIDED_BY[word]))


@reads("router_groups", "chosen_groups", "router_bias")
def groups_have_a_bias(layer_spec: LayerSpec, _: Platform) -> Reason | None:
    """Refuse groups without a bias, which a router compares by their best expert alone."""
    if layer_spec.router_bias or not asks_for(layer_spec, GROUPS):
        return None
    text = "without a bias it compares groups by their best expert, not by the two best"
    return Reason(code="router_unsupported", text=text)


@dataclass(frozen=True, kw_only=True)
class RoutingMethod:
    """Describe a layer's routing.

    router: a row of `moe.routers`. bias: a correction bias [E] takes part in the choice.
    groups, chosen_groups: groups of experts, and how many of them are kept. scale: a factor of the
    weights. logits_dtype: of the logits; `model`: the layer's. weights_input: a token's only weight
    multiplies the experts' input; their outputs are added as they are.
    """

    router: str = "softmax"
    top_k: int
    renormalize: bool = True
    bias: bool = False
    groups: int = 1
    chosen_groups: int = 1
    scale: float = 1.0
    logits_dtype: str = "model"
    weights_input: bool = False

    @property
    def is_limited(self) -> bool:
        """Tell whether some groups of experts are left out of the choice."""
        return self.chosen_groups < self.groups

    @property
    def options(self) -> tuple[str, ...]:
        """Return the words of OPTIONS that a router must take."""
        options = {
            BIAS: self.bias,
            GROUPS: self.is_limited,
            SCALE: self.scale != 1.0,
            LOGITS_DTYPE: self.logits_dtype != "model",
        }
        return tuple(word for word, is_asked in options.items() if is_asked)

    def arguments(self, bias: Any = None) -> dict[str, Any]:
        """Return the keyword arguments of a router's call beside `renormalize`.

        Only what differs from plain top-k routing is passed, so that a router that takes no options
        need not know them. bias: [E] float32, if the method has one.
        """
        arguments: dict[str, Any] = {BIAS: bias} if self.bias else {}
        if self.is_limited:
            arguments |= {GROUPS: self.groups, "chosen_groups": self.chosen_groups}
        return arguments | ({SCALE: self.scale} if self.scale != 1.0 else {})
