"""List the all2all backends, which move tokens to their experts and sum the outputs.

One row and one file per backend, in order of preference. `moe.all2all.make` makes them. Rows of
released packages are in `moe.all2all.released_rows`.
"""

from __future__ import annotations

from dataclasses import replace

from moe.all2all import released_rows
from moe.all2all.released_rows import WEIGHED_BY_SENDER
from moe.registry import Registry
from moe.spec import ANY, BATCHED, STANDARD, MemberSpec, Needs, Numerics

_SENT = Numerics(reduction="model")  # partial sums are sent and added in the layer's dtype
# The host waits for the numbers of other ranks' rows, so that no graph can have an exchange in it.
_CARRIES = Needs(
    dtypes=ANY,
    formats=ANY,
    padding=True,
    adapters=True,
    moe_tp=True,
    eplb=True,
    call_modes=frozenset({"two_batches"}),
)
_GATHERS = replace(_CARRIES, spanning_scales=True)

ALL2ALL: Registry[MemberSpec] = Registry(
    "all2all",
    (
        MemberSpec(
            name="local",
            target="moe.all2all.local:Local",
            dispatch_format=STANDARD,
            carries_logits=True,
            needs=replace(
                _GATHERS, max_world=1, call_modes=frozenset({"compile", "graph", "two_batches"})
            ),
            numerics=_SENT,
            deterministic=True,
            batch_invariant=True,
        ),
        MemberSpec(
            name="allgather_reducescatter",
            target="moe.all2all.allgather_reducescatter:AllGatherReduceScatter",
            dispatch_format=STANDARD,
            carries_logits=True,
            needs=replace(_GATHERS, alone_call_modes=frozenset({"compile", "graph"})),
            numerics=_SENT,
            deterministic=True,
        ),
        MemberSpec(
            name="naive",
            target="moe.all2all.naive:Naive",
            dispatch_format=STANDARD,
            carries_logits=True,
            needs=_GATHERS,
            numerics=_SENT,
            deterministic=True,
        ),
        MemberSpec(
            name="all_to_all",
            target="moe.all2all.all_to_all:AllToAll",
            dispatch_format=STANDARD,
            needs=_CARRIES,
            # Partial sums are sent in the layer's dtype, added in float32 in rank order.
            numerics=Numerics(reduction="wire"),
            deterministic=True,
            batch_invariant=True,
        ),
        MemberSpec(
            name="all_to_all_batched",
            target="moe.all2all.all_to_all_batched:AllToAllBatched",
            dispatch_format=BATCHED,
            needs=replace(_CARRIES, capacity=True),
            numerics=WEIGHED_BY_SENDER,
            deterministic=True,
            batch_invariant=True,
        ),
        MemberSpec(
            name="symm_mem",
            target="moe.all2all.symm_mem:SymmMem",
            dispatch_format=STANDARD,
            needs=replace(_CARRIES, features=frozenset({"triton", "peer_memory"})),
            numerics=Numerics(reduction="wire"),  # as `all_to_all`
            deterministic=True,
            batch_invariant=True,
        ),
        *released_rows.ROWS,
    ),
)
