"""Define the row of the sigmoid router. Torch-free."""

from moe.router_numerics import PLAIN
from moe.routers.base import TORCH_NEEDS, RouterSpec
from moe.routing_method import OPTIONS

SIGMOID = RouterSpec(
    name="sigmoid",
    target="moe.routers.sigmoid.member:SigmoidTopK",
    truth="moe.routers.sigmoid.truth:SigmoidTruth",
    needs=TORCH_NEEDS,
    sums_to_one=False,
    saturated_at=32.0,
    rounding=PLAIN,
    takes=frozenset(OPTIONS),
)
