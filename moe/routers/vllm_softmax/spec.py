"""Define the row of vLLM's softmax router, judged by the same truth as this project's own."""

from moe.released_vllm import ROUTER
from moe.router_numerics import PLAIN
from moe.routers.base import RouterSpec
from moe.routing_method import LOGITS_DTYPE
from moe.spec import ANY, Needs

VLLM_SOFTMAX = RouterSpec(
    name="vllm_softmax",
    target="moe.routers.vllm_softmax.member:VllmSoftmaxTopK",
    truth="moe.routers.softmax.truth:SoftmaxTruth",
    needs=Needs(
        features=frozenset({"cuda"}),
        dtypes=ANY,
        formats=ANY,
        packages=(ROUTER,),
    ),
    sums_to_one=True,
    rounding=PLAIN,
    nan_as_zero=True,  # the kernel sets scores that are NaN or Inf to 0, so that ids stay distinct
    takes=frozenset({LOGITS_DTYPE}),
)
