"""List the all2all backends, which move tokens to their experts and sum the outputs.

One row and one file per backend, in order of preference.
"""

from __future__ import annotations

from moe.registry import Registry
from moe.spec import ANY, STANDARD, MemberSpec, Needs, Numerics

_SENT = Numerics(reduction="model")  # partial sums are sent and added in the layer's dtype

ALL2ALL: Registry[MemberSpec] = Registry(
    "all2all",
    (
        MemberSpec(
            name="local",
            target="moe.all2all.local:Local",
            dispatch_format=STANDARD,
            carries_logits=True,
            needs=Needs(
                dtypes=ANY, formats=ANY, padding=True, adapters=True, moe_tp=True, max_world=1
            ),
            numerics=_SENT,
            deterministic=True,
        ),
        MemberSpec(
            name="allgather_reducescatter",
            target="moe.all2all.allgather_reducescatter:AllGatherReduceScatter",
            dispatch_format=STANDARD,
            carries_logits=True,
            needs=Needs(
                dtypes=ANY, formats=ANY, padding=True, adapters=True, moe_tp=True, eplb=True
            ),
            numerics=_SENT,
            deterministic=True,
        ),
    ),
)
