"""Define the row of triton_kernels' router, which takes the softmax over the chosen logits."""

from moe.packages import Package
from moe.router_numerics import RouterNumerics
from moe.routers.base import RouterSpec
from moe.routing_method import LOGITS_DTYPE
from moe.spec import ANY, Needs

TRITON_KERNELS = RouterSpec(
    name="triton_kernels",
    target="moe.routers.triton_kernels.member:TritonKernelsTopK",
    truth="moe.routers.topk_softmax.truth:TopKSoftmaxTruth",
    needs=Needs(
        features=frozenset({"triton", "cuda"}),
        dtypes=ANY,
        formats=ANY,
        packages=(
            Package(
                distribution="triton-kernels",
                module="triton_kernels",
                calls=("triton_kernels.topk:topk(x, k, apply_softmax)",),
            ),
        ),
    ),
    sums_to_one=True,
    always_renormalizes=True,
    rounding=RouterNumerics(weights="logits", scaled="same"),
    takes=frozenset({LOGITS_DTYPE}),
)
