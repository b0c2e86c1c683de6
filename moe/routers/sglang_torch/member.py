"""SGLang's choice of experts in torch, with each of its functions of scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from moe.routers.base import OptionsRouter
from moe.types import Routing

if TYPE_CHECKING:
    from torch import Tensor

    from moe.routers.base import RoutingOptions


class SglangTorch(OptionsRouter):
    """Call the function that SGLang calls for what the layer asks for.

    `fused_topk_torch_native` without a bias; SGLang multiplies the layer's output by a scale there,
    and this class the weights. `biased_topk_impl` with a bias, and with groups
    `biased_grouped_topk_impl`: they compute scores in the dtype of the logits, and take no empty
    call, for which SGLang's models ask `empty_topk_output`.
    """

    scoring: ClassVar[str]  # as SGLang names it

    def routed(self, logits: Tensor, top_k: int, options: RoutingOptions) -> Routing:
        from moe import sglang_functions

        scale, renormalize = options.scale, options.renormalize
        if options.bias is None:
            call = sglang_functions.fused_topk
            weights, ids = call(logits, logits, top_k, renormalize, None, self.scoring)
            return Routing(topk_ids=ids.to(torch.int32), topk_weights=weights.float() * scale)
        if len(logits) == 0:
            return Routing.of_no_tokens(logits, top_k)
        scaled = {"routed_scaling_factor": scale, "apply_routed_scaling_factor_on_output": True}
        arguments = logits, logits, options.bias, top_k, renormalize
        if options.groups > options.chosen_groups:
            call = sglang_functions.biased_grouped_topk
            weights, ids = call(*arguments, options.groups, options.chosen_groups, **scaled)
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
