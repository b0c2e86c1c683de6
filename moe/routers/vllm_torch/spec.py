"""Define the rows of vLLM's choice of experts in torch, each judged by its scores' truth."""

from moe.packages import Package
from moe.routers.base import RouterSpec
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


def row(name: str, class_name: str, score: str, takes: frozenset[str]) -> RouterSpec:
    """Return one function's row. score: the router whose truth judges it."""
    return RouterSpec(
        name=name,
        target=f"moe.routers.vllm_torch.member:{class_name}",
        truth=f"moe.routers.{score}.truth:{score.capitalize()}Truth",
        needs=Needs(
            dtypes=ANY,
            formats=ANY,
            packages=(PACKAGE,),
            probe="moe.routing_method:groups_have_a_bias",
        ),
        sums_to_one=score == "softmax",
        saturated_at=32.0 if score == "sigmoid" else None,
        takes=takes,
    )


VLLM_TORCH_ROUTERS = (
    row("vllm_grouped_softmax", "VllmGroupedSoftmax", "softmax", frozenset(OPTIONS)),
    row("vllm_grouped_sigmoid", "VllmGroupedSigmoid", "sigmoid", frozenset(OPTIONS)),
    row("vllm_cpu_grouped_sigmoid", "VllmCpuGroupedSigmoid", "sigmoid", frozenset(OPTIONS)),
    row("vllm_cpu_softmax", "VllmCpuSoftmax", "softmax", frozenset({LOGITS_DTYPE})),
)
