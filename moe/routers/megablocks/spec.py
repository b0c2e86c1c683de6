"""Define the row of MegaBlocks' router, judged by the truth of the softmax. Torch-free."""

from moe.packages import Package
from moe.router_numerics import RouterNumerics
from moe.routers.package_row import package_row
from moe.routing_method import LOGITS_DTYPE
from moe.spec import ANY, Needs

PACKAGE = Package(
    distribution="megablocks",
    module="megablocks",
    at_least="0.10",
    why="the version whose arguments this adapter was written for",
    calls=("megablocks.layers.router:LearnedRouter.forward(x)",),
    imports=("moe.megablocks_parts",),
)
MEGABLOCKS = package_row(
    "megablocks_softmax",
    "moe.routers.megablocks.member:MegablocksSoftmax",
    "softmax",
    takes=frozenset({LOGITS_DTYPE}),
    needs=Needs(dtypes=ANY, formats=ANY, packages=(PACKAGE,)),
    rounding=RouterNumerics.as_torch(),
)
