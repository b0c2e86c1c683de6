"""SGLang's fused router, with each of its functions of scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from moe.routers.base import OptionsRouter
from moe.types import Routing

if TYPE_CHECKING:
    from torch import Tensor

    from moe.routers.base import RoutingOptions


class SglangGate(OptionsRouter):
    """Call `moe_fused_gate`, which computes in float32 whatever the dtype of the logits."""

    scoring: ClassVar[str]  # as SGLang names it
    needs_bias: ClassVar[bool] = True

    def routed(self, logits: Tensor, top_k: int, options: RoutingOptions) -> Routing:
        from moe.sglang_parts import fused_gate

        bias = options.bias
        if bias is None and self.needs_bias:
            bias = logits.new_zeros(logits.shape[1])
        weights, ids = fused_gate(
            logits,
            bias,
            topk=top_k,
            scoring_func=self.scoring,
            renormalize=options.renormalize,
            routed_scaling_factor=options.scale,
            apply_routed_scaling_factor_on_output=True,
            num_expert_group=options.groups,
            topk_group=options.chosen_groups,
        )
        return Routing(topk_ids=ids, topk_weights=weights)


class SglangSigmoid(SglangGate):
    """Score by the sigmoid."""

    scoring = "sigmoid"


class SglangSoftplusSqrt(SglangGate):
    """Score by the square root of softplus."""

    scoring = "sqrtsoftplus"


class SglangSoftmax(SglangGate):
    """Score by the softmax. Its bias would be part of the weights, too, so that it gets none."""

    scoring = "softmax"
    needs_bias = False
