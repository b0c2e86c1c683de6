"""Define the row of the router that takes the softmax over the chosen logits. Torch-free."""

from moe.router_numerics import PLAIN
from moe.routers.base import TORCH_NEEDS, RouterSpec
from moe.routing_method import LOGITS_DTYPE, SCALE

TOPK_SOFTMAX = RouterSpec(
    name="topk_softmax",
    target="moe.routers.topk_softmax.member:TopKSoftmax",
    truth="moe.routers.topk_softmax.truth:TopKSoftmaxTruth",
    needs=TORCH_NEEDS,
    sums_to_one=True,
    always_renormalizes=True,
    rounding=PLAIN,
    takes=frozenset({SCALE, LOGITS_DTYPE}),
)
