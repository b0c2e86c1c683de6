"""Define the rows of SGLang's choice of experts in torch, each judged by its scores' truth."""

from moe.packages import Package
from moe.routers.base import RouterSpec
from moe.routing_method import BIAS, LOGITS_DTYPE, OPTIONS, SCALE
from moe.spec import ANY, Needs

_TOP_K = "sglang.srt.layers.moe.topk"
_SCALE = "routed_scaling_factor, apply_routed_scaling_factor_on_output"
PACKAGE = Package(
    distribution="sglang",
    module="sglang",
    at_least="0.5.23",
    why="the version whose arguments this adapter was written for",
    calls=(
        f"{_TOP_K}:fused_topk_torch_native(hidden_states, gating_output, topk, renormalize, "
        "correction_bias, scoring_func)",
        f"{_TOP_K}:fused_topk_softmax_torch_raw_logits(hidden_states, gating_output, topk, "
        "renormalize)",
        f"{_TOP_K}:biased_topk_impl(hidden_states, gating_output, correction_bias, topk, "
        f"renormalize, scoring_func, {_SCALE})",
        f"{_TOP_K}:biased_grouped_topk_impl(hidden_states, gating_output, correction_bias, topk, "
        f"renormalize, num_expert_group, topk_group, {_SCALE})",
    ),
    imports=("moe.sglang_functions",),
)


def scored_by(
    name: str, class_name: str, truth: str, takes: frozenset[str], *, title: str = ""
) -> RouterSpec:
    """Return the row of one function of scores. name: the router whose truth judges it."""
    return RouterSpec(
        name=title or f"sglang_torch_{name}",
        target=f"moe.routers.sglang_torch.member:{class_name}",
        truth=f"moe.routers.{name}.truth:{truth}",
        needs=Needs(
            dtypes=ANY,
            formats=ANY,
            packages=(PACKAGE,),
            probe="moe.routing_method:groups_have_a_bias",
        ),
        sums_to_one=name == "softmax",
        saturated_at=32.0 if name == "sigmoid" else None,
        takes=takes,
    )


SGLANG_TORCH_ROUTERS = (
    scored_by("softmax", "SglangTorchSoftmax", "SoftmaxTruth", frozenset({SCALE, LOGITS_DTYPE})),
    scored_by("sigmoid", "SglangTorchSigmoid", "SigmoidTruth", frozenset(OPTIONS)),
    scored_by(
        "softplus_sqrt",
        "SglangTorchSoftplusSqrt",
        "SoftplusSqrtTruth",
        frozenset({BIAS, SCALE, LOGITS_DTYPE}),
    ),
    scored_by(
        *("softmax", "SglangRawLogits", "SoftmaxTruth", frozenset({LOGITS_DTYPE})),
        title="sglang_raw_logits",
    ),
)
