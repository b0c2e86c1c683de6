"""Take part in the collectives of a call that failed on this rank, so that other ranks do not wait.

Before the dispatch, the rank sends tokens that need no expert, and computes those of the others.
After it, NaN takes the place of what the rank did not compute. Either way its own error is raised
when its part in the collectives is done. What fails inside a collective is not covered: there, the
transport tells the other ranks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.types import TORCH_DTYPE, Routing

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from moe.spec import LayerSpec


class EndedError(Exception):
    """Carry the error of a call whose part in the collectives is done, unlike one inside of them.

    Only then does the rank come with the later chunks of the call: after an error inside a
    collective it might take part in another one than the other ranks.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def take_part(action: Callable[[], object], error: Exception) -> None:
    """Call `action`, which other ranks wait for. If it fails, too, add a note to the error."""
    try:
        action()
    except Exception as later:  # such as of a device that takes no more work
        error.add_note(f"the other ranks were not told, since that failed, too: {later}")


def empty_tokens(layer_spec: LayerSpec, x: Tensor, *, columns: int) -> Tensor:
    """Return zeros, [T, columns] in the layer's dtype, for as many tokens as x [..., C] has.

    The number is kept, since some backends have made buffers for it.
    """
    rows = x.shape[:-1].numel()
    return x.new_zeros((rows, columns), dtype=TORCH_DTYPE[layer_spec.dtype])


def routed_nowhere(layer_spec: LayerSpec, x: Tensor) -> Routing:
    """Return the routing of tokens x, [T, K], that need no expert: ids -1, [T, k], weights 0."""
    slots = layer_spec.top_k + layer_spec.held_experts - layer_spec.num_experts
    shape = len(x), slots
    return Routing(
        topk_ids=torch.full(shape, -1, dtype=torch.int32, device=x.device),
        topk_weights=torch.zeros(shape, device=x.device),
        adapters=x.new_full((len(x),), -1, dtype=torch.int32) if layer_spec.adapters else None,
    )


def logits_of_nobody(layer_spec: LayerSpec, x: Tensor, dtype: torch.dtype) -> Routing:
    """Return `routed_nowhere` as backends get it that route by themselves: of logits 0, [T, E]."""
    logits = x.new_zeros((len(x), layer_spec.router_experts), dtype=dtype)
    ids = torch.full((len(x), 1), -1, dtype=torch.int32, device=x.device)
    return Routing(topk_ids=ids, topk_weights=logits)


def unknown_sums(layer_spec: LayerSpec, x: Tensor) -> Tensor:
    """Return NaN, [T, K] in the layer's dtype, in place of this rank's sums for x [..., C]."""
    return empty_tokens(layer_spec, x, columns=layer_spec.hidden).fill_(torch.nan)
