"""The row of the softmax router. No torch."""

from moe.routers.base import RouterSpec

SOFTMAX = RouterSpec(
    name="softmax",
    target="moe.routers.softmax.member:SoftmaxTopK",
    truth="moe.routers.softmax.truth:SoftmaxTruth",
    sums_to_one=True,
)
