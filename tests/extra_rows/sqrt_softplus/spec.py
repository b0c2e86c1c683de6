"""The row of a router that scores by the root of softplus. No torch."""

from moe.routers.base import RouterSpec

SQRT_SOFTPLUS = RouterSpec(
    name="sqrt_softplus",
    target="sqrt_softplus.member:SqrtSoftplusTopK",
    truth="sqrt_softplus.truth:SqrtSoftplusTruth",
    sums_to_one=False,
)
