"""Define the rows of SGLang's router, each judged by the truth of its scores. Torch-free."""

from moe.packages import Package
from moe.router_numerics import PLAIN
from moe.routers.base import RouterSpec
from moe.routers.package_row import package_row
from moe.routing_method import LOGITS_DTYPE, OPTIONS, SCALE
from moe.spec import ANY, Needs

PACKAGE = Package(
    distribution="sglang",
    module="sglang",
    at_least="0.5.23",
    why="the version whose arguments this adapter was written for",
    calls=(
        "sglang.kernels.ops.moe.moe_fused_gate:moe_fused_gate(scores, bias, topk, scoring_func, "
        "renormalize, routed_scaling_factor, apply_routed_scaling_factor_on_output, "
        "num_expert_group, topk_group)",
    ),
    imports=("moe.sglang_parts",),
)


_NEEDS = Needs(
    features=frozenset({"triton"}), dtypes=ANY, formats=ANY, packages=("triton", PACKAGE)
)


def _row(score: str, class_name: str, takes: frozenset[str]) -> RouterSpec:
    target = f"moe.routers.sglang_gate.member:{class_name}"
    return package_row(f"sglang_{score}", target, score, takes=takes, needs=_NEEDS, rounding=PLAIN)


SGLANG_ROUTERS = (
    _row("softmax", "SglangSoftmax", frozenset({SCALE, LOGITS_DTYPE})),
    _row("sigmoid", "SglangSigmoid", frozenset(OPTIONS)),
    _row("softplus_sqrt", "SglangSoftplusSqrt", frozenset(OPTIONS)),
)
