"""Project tokens to the latent width of the routed experts, and their sums back.

The routed experts of a latent layer work on L columns in place of the hidden size K. The gate and
the shared experts see the hidden states themselves. The way in comes before the dispatch, so that
ranks exchange L columns; the way back comes after the sums over slots and over the gather group.
It is linear: where the TP ranks still have to be summed, each projects its own part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moe.errors import MoEError
from moe.shared import plain_product

if TYPE_CHECKING:
    from torch import Tensor

    from moe.spec import LayerSpec


@dataclass(frozen=True, kw_only=True)
class LatentProjections:
    """Hold both projections of one layer, the same on each rank, in the layer's dtype.

    Each product is summed in float32 and rounded once, to the layer's dtype.
    """

    down: Tensor  # [L, K]
    up: Tensor  # [K, L]

    def enter(self, x: Tensor) -> Tensor:
        """Return the routed experts' input [T, L] of hidden states x [T, K]."""
        return plain_product(x, self.down)

    def leave(self, sums: Tensor) -> Tensor:
        """Return [T, K] from the routed experts' sums [T, L]."""
        return plain_product(sums, self.up)


def check_projections(layer_spec: LayerSpec, latent: LatentProjections | None) -> None:
    """Raise MoEError unless a latent layer, and no other, has projections of its sizes."""
    width, hidden = layer_spec.latent, layer_spec.hidden
    if (latent is not None) != (width > 0):
        raise MoEError(
            f"latent is {width}, but projections are {'None' if latent is None else 'given'}; pass "
            "them exactly if the layer has a latent width"
        )
    if latent is None:
        return
    for name, w, shape in (
        ("down", latent.down, [width, hidden]),
        ("up", latent.up, [hidden, width]),
    ):
        if list(w.shape) != shape:
            raise MoEError(
                f"latent projection {name} is {list(w.shape)}; for hidden size {hidden} and latent "
                f"width {width} it must be {shape}"
            )
