"""Take part in the collectives of a call that failed on this rank, so that other ranks do not wait.

Before the dispatch, the rank sends tokens that need no expert, and computes those of the others.
After it, NaN takes the place of what the rank did not compute. Between the collectives of an
all2all backend, rows of the announced number take the place of those that could not be made
(`Postponed`). Either way its own error is raised when its part in the collectives is done. What
fails inside a collective is not covered: nobody knows whether the other ranks have taken part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch

from moe.byte_views import as_bytes
from moe.types import TORCH_DTYPE, Routing

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from moe.spec import LayerSpec

T = TypeVar("T")


_UNTOLD = "the other ranks were not told, since that failed, too: {}"


class EndedError(Exception):
    """Carry the error of a call whose part in the collectives is done, unlike one inside of them.

    Only then does the rank come with the later chunks of the call: after an error inside a
    collective it might take part in another one than the other ranks.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class Postponed:
    """Keep the first error of this rank's own work until it has taken part in all collectives.

    error: it, or None.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None

    def made(self, make: Callable[[], T], otherwise: Callable[[], T]) -> T:
        """Return what `make` returns; if it fails, or an earlier one did, what `otherwise` returns.

        Raises the first error if `otherwise` fails, too: the other ranks then wait.
        """
        if self.error is None:
            try:
                return make()
            except Exception as error:  # raised by `end`, or by whom `error` is handed to
                self.error = error
        try:
            return otherwise()
        except Exception as later:
            self.error.add_note(_UNTOLD.format(later))
            raise self.error from later

    def end(self) -> None:
        """Raise EndedError if there was an error: the collectives are done."""
        if self.error is not None:
            raise EndedError(self.error) from self.error


def filled(x: Tensor, rows: int, value: float = 0) -> Tensor:
    """Return `rows` rows of this value as wide as those of x, [T, ...], and in its dtype."""
    return as_bytes(x).new_full((rows, *x.shape[1:]), value).view(x.dtype)


def take_part(action: Callable[[], object], error: Exception) -> None:
    """Call `action`, which other ranks wait for. If it fails, too, add a note to the error."""
    try:
        action()
    except Exception as later:  # such as of a device that takes no more work
        error.add_note(_UNTOLD.format(later))


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
