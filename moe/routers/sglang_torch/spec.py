"""Define the rows of SGLang's choice of experts in torch, each judged by its scores' truth."""

from moe.packages import Package
from moe.router_numerics import PLAIN, RouterNumerics
from moe.routers.base import RouterSpec
from moe.routers.package_row import package_row
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
_NEEDS = Needs(
    dtypes=ANY, formats=ANY, packages=(PACKAGE,), probe="moe.routing_method:groups_have_a_bias"
)
# Scores have the dtype of the logits, their sum is in float32, and with it the quotients.
_WITH_BIAS = RouterNumerics.as_torch(total="f32")


def _row(name: str, class_name: str, score: str, takes: frozenset[str]) -> RouterSpec:
    target = f"moe.routers.sglang_torch.member:{class_name}"
    return package_row(
        *(name, target, score),
        takes=takes,
        needs=_NEEDS,
        rounding=PLAIN,
        rounding_with_bias=_WITH_BIAS if BIAS in takes else None,
    )


SGLANG_TORCH_ROUTERS = (
    _row(
        *("sglang_torch_softmax", "SglangTorchSoftmax", "softmax"),
        frozenset({SCALE, LOGITS_DTYPE}),
    ),
    _row("sglang_torch_sigmoid", "SglangTorchSigmoid", "sigmoid", frozenset(OPTIONS)),
    _row(
        *("sglang_torch_softplus_sqrt", "SglangTorchSoftplusSqrt", "softplus_sqrt"),
        frozenset({BIAS, SCALE, LOGITS_DTYPE}),
    ),
    _row("sglang_raw_logits", "SglangRawLogits", "softmax", frozenset({LOGITS_DTYPE})),
)
