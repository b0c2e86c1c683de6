"""Define the rows of released packages that move tokens. Torch-free.

Of them `flashinfer_nvlink` has run, on two H200s. docs/released-backends.md says where their
roundings are from; what is left out is assumed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe import released_all2all
from moe.quant import QUANT
from moe.spec import ANY, BATCHED, STANDARD, MemberSpec, Needs, Numerics

if TYPE_CHECKING:
    from moe.packages import Package

_PROBES = "moe.released_all2all"
_ON_NVLINK = frozenset({"cuda", "peer_memory"})
# Rows of the layer's dtype, whatever the format of the weights.
_PLAIN_ROWS = frozenset(
    (q.scheme.weights, q.scheme.activations)
    for q in QUANT.built_in
    if q.scheme.activations == "model"
)
_FP8_GROUPS = ("fp8_block", "fp8_group")  # codes with a float32 scale of each 128 columns
# Each expert's output is sent in the layer's dtype; the rank that sent the token weighs and adds
# them in float32, and rounds once. Of this project's `all_to_all_batched`, too.
WEIGHED_BY_SENDER = Numerics(
    expert="model",
    weight_on="output",
    weight_dtype="f32",
    weighted="f32",
    combine="f32",
    reduction="wire",
)


def _low_latency(name: str, target: str, package: Package) -> MemberSpec:
    return MemberSpec(
        name=name,
        target=target,
        dispatch_format=BATCHED,
        needs=Needs(
            features=_ON_NVLINK,
            padding=True,
            formats=_PLAIN_ROWS,
            packages=(package,),
            probe=f"{_PROBES}:fits_low_latency",
        ),
        numerics=WEIGHED_BY_SENDER,
    )


ROWS = (
    MemberSpec(
        name="flashinfer_nvlink",
        target="moe.all2all.flashinfer_nvlink:FlashInferNvlink",
        dispatch_format=STANDARD,
        needs=Needs(
            features=_ON_NVLINK,
            padding=True,
            dtypes=ANY,
            formats=ANY,
            packages=(released_all2all.FLASHINFER,),
            probe=f"{_PROBES}:fits_flashinfer",
        ),
        numerics=Numerics(reduction="model"),  # added by pairs in the dtype that is sent
    ),
    MemberSpec(
        name="deepep_ht",
        target="moe.all2all.deepep_ht:DeepEpHighThroughput",
        dispatch_format=STANDARD,
        needs=Needs(
            features=_ON_NVLINK,
            padding=True,
            formats=_PLAIN_ROWS | {_FP8_GROUPS},
            hidden_multiple=128,
            packages=(released_all2all.DEEP_EP,),
            probe=f"{_PROBES}:fits_one_host",
        ),
        numerics=Numerics(reduction="wire"),
    ),
    _low_latency("deepep_ll", "moe.all2all.deepep_ll:DeepEpLowLatency", released_all2all.DEEP_EP),
    MemberSpec(
        name="mori",
        target="moe.all2all.mori:Mori",
        dispatch_format=STANDARD,
        needs=Needs(
            features=frozenset({"rocm"}),
            padding=True,
            formats=_PLAIN_ROWS | {_FP8_GROUPS},
            own_device=True,
            hidden_multiple=128,
            packages=(released_all2all.MORI,),
            probe=f"{_PROBES}:experts_are_spread",
        ),
    ),
    _low_latency("nixl", "moe.all2all.nixl:NixlLowLatency", released_all2all.NIXL),
)
