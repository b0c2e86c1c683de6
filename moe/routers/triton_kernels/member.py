"""The router of the package triton_kernels, whichever of two forms its result has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from moe.errors import MoEError
from moe.types import Routing

if TYPE_CHECKING:
    from torch import Tensor


class TritonKernelsTopK:
    """Call `triton_kernels.topk.topk`, which weighs the chosen logits by their softmax."""

    def __call__(self, logits: Tensor, top_k: int, *, renormalize: bool) -> Routing:
        del renormalize  # the weights sum to one anyway
        from triton_kernels.topk import topk

        return routing_of(topk(logits.contiguous(), top_k, apply_softmax=True))


def routing_of(result: Any) -> Routing:
    """Return the routing of a result: a tuple (weights, ids, ...), or an object with both.

    The object has `vals` and `indx`, both [T, k]. Raises MoEError for anything else.
    """
    if isinstance(result, tuple) and len(result) >= 2:
        weights, ids = result[:2]
    elif hasattr(result, "vals") and hasattr(result, "indx"):
        weights, ids = result.vals, result.indx
    else:
        raise MoEError(
            f"triton_kernels.topk returned {type(result).__name__}; a tuple (weights, ids, ...) or "
            "an object with `vals` and `indx` is known: install another version"
        )
    return Routing(topk_ids=ids.to(torch.int32), topk_weights=weights.float())
