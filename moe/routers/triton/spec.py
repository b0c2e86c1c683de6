"""Define the rows of the Triton routers, each judged by the truth of its scores. Torch-free."""

from moe.router_numerics import PLAIN
from moe.routers.base import RouterSpec
from moe.routing_method import LOGITS_DTYPE, OPTIONS, SCALE
from moe.spec import ANY, Needs

_NEEDS = Needs(
    features=frozenset({"triton"}),
    dtypes=ANY,
    formats=ANY,
    packages=("triton",),
    call_modes=frozenset({"graph", "two_batches"}),
)


def _scored_by(name: str, class_name: str, *, sums_to_one: bool, truth: str) -> RouterSpec:
    return RouterSpec(
        name=f"triton_{name}",
        target=f"moe.kernels.top_k:{class_name}",
        truth=f"moe.routers.{name}.truth:{truth}",
        needs=_NEEDS,
        sums_to_one=sums_to_one,
        saturated_at=32.0 if name == "sigmoid" else None,
        always_renormalizes=name == "topk_softmax",
        rounding=PLAIN,
        takes=frozenset((SCALE, LOGITS_DTYPE) if name == "topk_softmax" else OPTIONS),
    )


TRITON_ROUTERS = (
    _scored_by("softmax", "SoftmaxRouter", sums_to_one=True, truth="SoftmaxTruth"),
    _scored_by("sigmoid", "SigmoidRouter", sums_to_one=False, truth="SigmoidTruth"),
    _scored_by("topk_softmax", "TopKSoftmaxRouter", sums_to_one=True, truth="TopKSoftmaxTruth"),
    _scored_by("softplus_sqrt", "SoftplusSqrtRouter", sums_to_one=False, truth="SoftplusSqrtTruth"),
)
