"""The all2all backends: how tokens reach their experts and come back. One row, one file each."""

from __future__ import annotations

from moe.registry import Registry
from moe.spec import ANY, STANDARD, Needs, Row

ALL2ALL: Registry[Row] = Registry(
    "all2all",
    (
        Row(
            name="local",
            target="moe.all2all.local:Local",
            dispatch_format=STANDARD,
            needs=Needs(dtypes=ANY, formats=ANY, max_world=1),
            deterministic=True,
        ),
        Row(
            name="allgather_reducescatter",
            target="moe.all2all.allgather_reducescatter:AllGatherReduceScatter",
            dispatch_format=STANDARD,
            needs=Needs(dtypes=ANY, formats=ANY),
            deterministic=True,
        ),
    ),
)
