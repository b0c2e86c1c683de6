"""vLLM's choice of experts in torch: the function that GPUs fall back to, and that of its CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from moe.routers.base import OptionsRouter
from moe.types import Routing

if TYPE_CHECKING:
    from torch import Tensor

    from moe.routers.base import RoutingOptions


class VllmGrouped(OptionsRouter):
    """Call `grouped_topk`, which computes scores in the dtype of the logits.

    vLLM gives an idle rank a token of its own, and pads what sequence parallelism splits: its
    functions get no empty call, and take none.
    """

    scoring: ClassVar[str]
    is_of_cpu: ClassVar[bool] = False

    def routed(self, logits: Tensor, top_k: int, options: RoutingOptions) -> Routing:
        if len(logits) == 0:
            return Routing.of_no_tokens(logits, top_k)
        groups = options.groups, options.chosen_groups
        more = self.scoring, options.scale, options.bias
        weights, ids = self._function(logits, top_k, options.renormalize, *groups, *more)
        return Routing(topk_ids=ids, topk_weights=weights.float())

    def _function(self, logits: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
        from moe import vllm_functions

        if self.is_of_cpu:
            pair: tuple[Tensor, Tensor] = vllm_functions.cpu_grouped_topk(logits, *arguments)
        else:
            pair = vllm_functions.grouped_topk(logits, logits, *arguments)
        return pair


class VllmGroupedSoftmax(VllmGrouped):
    """Score by the softmax."""

    scoring = "softmax"


class VllmGroupedSigmoid(VllmGrouped):
    """Score by the sigmoid."""

    scoring = "sigmoid"


class VllmCpuGroupedSigmoid(VllmGrouped):
    """Score by the sigmoid in float32, as the router of vLLM's CPU does."""

    scoring = "sigmoid"
    is_of_cpu = True


class VllmCpuSoftmax:
    """Call `_softmax_topk` of the router of vLLM's CPU, which knows no groups."""

    def __call__(self, logits: Tensor, top_k: int, *, renormalize: bool) -> Routing:
        from moe import vllm_functions

        weights, ids = vllm_functions.cpu_softmax_topk(logits, top_k, renormalize)
        return Routing(topk_ids=ids, topk_weights=weights)
