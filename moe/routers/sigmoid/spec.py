"""The row of the sigmoid router. No torch."""

from moe.routers.base import RouterSpec

SIGMOID = RouterSpec(
    name="sigmoid",
    target="moe.routers.sigmoid.member:SigmoidTopK",
    truth="moe.routers.sigmoid.truth:SigmoidTruth",
    sums_to_one=False,
)
