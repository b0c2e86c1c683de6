"""vLLM's fused softmax and top-k."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from moe.types import Routing

if TYPE_CHECKING:
    from torch import Tensor


class VllmSoftmaxTopK:
    """Call `topk_softmax`, which computes in float32 whatever the dtype of the logits."""

    def __call__(self, logits: Tensor, top_k: int, *, renormalize: bool) -> Routing:
        from vllm import _custom_ops

        shape, device = (logits.shape[0], top_k), logits.device
        weights = torch.empty(shape, dtype=torch.float32, device=device)
        ids = torch.empty(shape, dtype=torch.int32, device=device)
        rows = torch.empty(shape, dtype=torch.int32, device=device)  # not read
        if logits.shape[0]:
            _custom_ops.topk_softmax(weights, ids, rows, logits.contiguous(), renormalize)
        return Routing(topk_ids=ids, topk_weights=weights)
