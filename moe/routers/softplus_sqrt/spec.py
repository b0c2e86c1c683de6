"""Define the row of the router of square roots of softplus. Torch-free."""

from moe.router_numerics import PLAIN
from moe.routers.base import TORCH_NEEDS, RouterSpec
from moe.routing_method import OPTIONS

SOFTPLUS_SQRT = RouterSpec(
    name="softplus_sqrt",
    target="moe.routers.softplus_sqrt.member:SoftplusSqrtTopK",
    truth="moe.routers.softplus_sqrt.truth:SoftplusSqrtTruth",
    needs=TORCH_NEEDS,
    sums_to_one=False,
    rounding=PLAIN,
    takes=frozenset(OPTIONS),
)
