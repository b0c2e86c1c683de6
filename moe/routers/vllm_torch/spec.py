"""Define the rows of vLLM's choice of experts in torch, each judged by its scores' truth."""

from moe.packages import Package
from moe.router_numerics import PLAIN, RouterNumerics
from moe.routers.base import RouterSpec
from moe.routers.package_row import package_row
from moe.routing_method import LOGITS_DTYPE, OPTIONS
from moe.spec import ANY, Needs

_ROUTER = "vllm.model_executor.layers.fused_moe.router"
_ARGUMENTS = (
    "topk, renormalize, num_expert_group, topk_group, scoring_func, routed_scaling_factor, "
    "e_score_correction_bias"
)
PACKAGE = Package(
    distribution="vllm",
    module="vllm",
    at_least="0.33",
    why="the version whose arguments this adapter was written for",
    calls=(
        f"{_ROUTER}.grouped_topk_router:grouped_topk(hidden_states, gating_output, {_ARGUMENTS})",
        f"{_ROUTER}.cpu_router:_grouped_topk(gating_output, {_ARGUMENTS})",
        f"{_ROUTER}.cpu_router:_softmax_topk(router_logits, top_k, renormalize)",
    ),
    imports=("moe.vllm_functions",),
)
_NEEDS = Needs(
    dtypes=ANY, formats=ANY, packages=(PACKAGE,), probe="moe.routing_method:groups_have_a_bias"
)


_IN_LOGITS = RouterNumerics.as_torch()
# The choice is by logits, and a softmax over the chosen ones is rounded once. Without
# renormalisation each step of exp(logits - logsumexp(logits)) is, see docs/found.md.
_CPU_SOFTMAX = RouterNumerics(weights="logits", scaled="same", log_sum="logits")


def _row(
    name: str, class_name: str, score: str, takes: frozenset[str], rounding: RouterNumerics
) -> RouterSpec:
    target = f"moe.routers.vllm_torch.member:{class_name}"
    return package_row(name, target, score, takes=takes, needs=_NEEDS, rounding=rounding)


_ALL = frozenset(OPTIONS)
VLLM_TORCH_ROUTERS = (
    _row("vllm_grouped_softmax", "VllmGroupedSoftmax", "softmax", _ALL, _IN_LOGITS),
    _row("vllm_grouped_sigmoid", "VllmGroupedSigmoid", "sigmoid", _ALL, _IN_LOGITS),
    _row("vllm_cpu_grouped_sigmoid", "VllmCpuGroupedSigmoid", "sigmoid", _ALL, PLAIN),
    _row(
        *("vllm_cpu_softmax", "VllmCpuSoftmax", "softmax", frozenset({LOGITS_DTYPE})),
        _CPU_SOFTMAX,
    ),
)
