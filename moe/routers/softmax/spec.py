"""Define the row of the softmax router. Torch-free."""

from moe.router_numerics import PLAIN
from moe.routers.base import TORCH_NEEDS, RouterSpec
from moe.routing_method import OPTIONS

SOFTMAX = RouterSpec(
    name="softmax",
    target="moe.routers.softmax.member:SoftmaxTopK",
    truth="moe.routers.softmax.truth:SoftmaxTruth",
    needs=TORCH_NEEDS,
    sums_to_one=True,
    rounding=PLAIN,
    takes=frozenset(OPTIONS),
)
