"""Define the row of the sigmoid router. Torch-free."""

from moe.routers.base import RouterSpec

SIGMOID = RouterSpec(
    name="sigmoid",
    target="moe.routers.sigmoid.member:SigmoidTopK",
    truth="moe.routers.sigmoid.truth:SigmoidTruth",
    sums_to_one=False,
    saturated_at=32.0,
)
