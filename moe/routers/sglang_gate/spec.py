"""Define the rows of SGLang's router, each judged by the truth of its scores. Torch-free."""

from moe.packages import Package
from moe.routers.base import RouterSpec
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


def scored_by(name: str, class_name: str, truth: str, takes: frozenset[str]) -> RouterSpec:
    """Return the row of one function of scores. name: the router whose truth judges it."""
    return RouterSpec(
        name=f"sglang_{name}",
        target=f"moe.routers.sglang_gate.member:{class_name}",
        truth=f"moe.routers.{name}.truth:{truth}",
        needs=Needs(
            features=frozenset({"triton"}), dtypes=ANY, formats=ANY, packages=("triton", PACKAGE)
        ),
        sums_to_one=name == "softmax",
        saturated_at=32.0 if name == "sigmoid" else None,
        takes=takes,
    )


SGLANG_ROUTERS = (
    scored_by(
        "softmax",
        "SglangSoftmax",
        "SoftmaxTruth",
        frozenset({SCALE, LOGITS_DTYPE}),
    ),
    scored_by("sigmoid", "SglangSigmoid", "SigmoidTruth", frozenset(OPTIONS)),
    scored_by("softplus_sqrt", "SglangSoftplusSqrt", "SoftplusSqrtTruth", frozenset(OPTIONS)),
)
