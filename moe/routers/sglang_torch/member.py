"""SGLang's choice of experts in torch, with each of its functions of scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from moe.types import Routing

if TYPE_CHECKING:
    from torch import Tensor


class SglangTorch:
    """Call the function that SGLang calls for what the layer asks for.

    `fused_topk_torch_native` without a bias; SGLang multiplies the layer's output by a scale there,
    and this class the weights. `biased_topk_impl` with a bias, and with groups
    `biased_grouped_topk_impl`: they compute scores in the dtype of the logits.
    """

    scoring: ClassVar[str]  # as SGLang names it

    def __call__(
        self,
        logits: Tensor,
        top_k: int,
        *,
        renormalize: bool,
        bias: Tensor | None = None,
        groups: int = 1,
        chosen_groups: int = 1,
        scale: float = 1.0,
    ) -> Routing:
        from moe import sglang_functions

        if bias is None:
            call = sglang_functions.fused_topk
            weights, ids = call(logits, logits, top_k, renormalize, None, self.scoring)
            return Routing(topk_ids=ids.to(torch.int32), topk_weights=weights.float() * scale)
        scaled = {"routed_scaling_factor": scale, "apply_routed_scaling_factor_on_output": True}
        arguments = logits, logits, bias, top_k, renormalize
        if groups > chosen_groups:
            call = sglang_functions.biased_grouped_topk
            weights, ids = call(*arguments, groups, chosen_groups, **scaled)
        else:
            weights, ids = sglang_functions.biased_topk(*arguments, self.scoring, **scaled)
        return Routing(topk_ids=ids, topk_weights=weights)


class SglangRawLogits:
    """Call `fused_topk_softmax_torch_raw_logits`, which goes with FlashInfer's experts there."""

    def __call__(self, logits: Tensor, top_k: int, *, renormalize: bool) -> Routing:
        from moe import sglang_functions

        weights, ids = sglang_functions.raw_logits_topk(logits, logits, top_k, renormalize)
        return Routing(topk_ids=ids, topk_weights=weights)


class SglangTorchSoftmax(SglangTorch):
    """Score by the softmax, which takes no bias here."""

    scoring = "softmax"


class SglangTorchSigmoid(SglangTorch):
    """Score by the sigmoid."""

    scoring = "sigmoid"


class SglangTorchSoftplusSqrt(SglangTorch):
    """Score by the square root of softplus."""

    scoring = "sqrtsoftplus"
