"""Round sizes up to what an experts backend needs. Torch-free.

The layer and its reference know nothing of it: a quantization method that pads fills the weights
with zeros, tokens are padded before they are quantized, and the output is cut. `rounded_up` keeps
the unpadded sizes, and adds the padded ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moe.needs import Needs
    from moe.spec import LayerSpec


@dataclass(frozen=True, kw_only=True)
class Padded:
    """Hold padded sizes. shards: the intermediate size on each rank."""

    hidden: int
    shards: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """State the multiples that a backend needs for some weight formats on some chips.

    weights: names of weight formats. features: of the platform; all must be there. hidden, shard:
    multiples of the hidden size, and of the intermediate size on each rank.
    """

    weights: frozenset[str]
    features: frozenset[str] = frozenset()
    hidden: int = 1
    shard: int = 1

    def applies(self, layer_spec: LayerSpec, features: frozenset[str]) -> bool:
        """Return whether the layer's weights and the platform are those that it is about."""
        return layer_spec.scheme.weights in self.weights and self.features <= features


def hidden_multiple(needs: Needs, layer_spec: LayerSpec, features: frozenset[str]) -> int:
    """Return the multiple of the hidden size that a row needs. features: of the platform."""
    rows = (row for row in needs.alignments if row.applies(layer_spec, features))
    return math.lcm(needs.hidden_multiple, *(row.hidden for row in rows))


def shard_multiple(needs: Needs, layer_spec: LayerSpec, features: frozenset[str]) -> int:
    """Return the multiple of each rank's intermediate size that a row needs."""
    rows = (row for row in needs.alignments if row.applies(layer_spec, features))
    return math.lcm(needs.shard_multiple, *(row.shard for row in rows))


def padded_hidden(needs: Needs, layer_spec: LayerSpec, features: frozenset[str]) -> int:
    """Return the hidden size of the experts after padding.

    It is a multiple of `layer_spec.roundup`, and if the method pads, of what the row needs.
    """
    multiple = hidden_multiple(needs, layer_spec, features) if layer_spec.pads else 1
    return _up(layer_spec.expert_hidden, math.lcm(multiple, layer_spec.roundup))


def padded_shards(needs: Needs, layer_spec: LayerSpec, features: frozenset[str]) -> tuple[int, ...]:
    """Return the intermediate size on each rank after padding, as `padded_hidden`."""
    multiple = shard_multiple(needs, layer_spec, features) if layer_spec.pads else 1
    both = math.lcm(multiple, layer_spec.roundup)
    return tuple(_up(size, both) for size in layer_spec.shard_sizes)


def rounded_up(
    layer_spec: LayerSpec, needs: Needs, features: frozenset[str] = frozenset()
) -> LayerSpec:
    """Return the layer with the sizes that it has after padding; itself if nothing is padded.

    needs: of the experts row. features: of the platform.
    """
    padded = Padded(
        hidden=padded_hidden(needs, layer_spec, features),
        shards=padded_shards(needs, layer_spec, features),
    )
    unpadded = Padded(hidden=layer_spec.expert_hidden, shards=layer_spec.shard_sizes)
    return layer_spec if padded == unpadded else replace(layer_spec, padded=padded)


class PaddedView:
    """Show a layer with the sizes that its experts see; all else is read from the layer itself."""

    def __init__(self, layer_spec: LayerSpec, needs: Needs, features: frozenset[str]) -> None:
        """Show the layer as an experts row with these needs gets it on a platform."""
        self._layer_spec = layer_spec
        self.hidden = padded_hidden(needs, layer_spec, features)
        self.shard_sizes = padded_shards(needs, layer_spec, features)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._layer_spec, name)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
