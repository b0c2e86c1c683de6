"""Agree between ranks before a collective, so that none waits for a rank that does not take part.

What a layer hands out, and so what a check can judge, may differ from rank to rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from harness.checks.check import Check, Observation, always

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


def on_all_ranks(flags: Sequence[bool], world_size: int) -> list[bool]:
    """Return which flags every rank has set. Collective over all ranks."""
    if world_size == 1:
        return list(flags)
    agreed = torch.tensor(flags, dtype=torch.int32, device="cpu")
    dist.all_reduce(agreed, op=dist.ReduceOp.MIN)
    return [bool(flag) for flag in agreed.tolist()]


def largest_on_all_ranks(values: Sequence[float], world_size: int) -> list[float]:
    """Return the largest of each value over the ranks. Collective over all ranks."""
    if world_size == 1:
        return list(values)
    largest = torch.tensor(values, dtype=torch.float64, device="cpu")
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    values_over_ranks: list[float] = largest.tolist()
    return values_over_ranks


def names_on_all_ranks(
    names: Collection[str], known: Sequence[str], world_size: int
) -> frozenset[str]:
    """Return those of the `known` names, the same on all ranks, that every rank has. Collective."""
    flags = on_all_ranks([name in names for name in known], world_size)
    return frozenset(name for name, flag in zip(known, flags, strict=True) if flag)


def applies(check: Check, observation: Observation) -> bool:
    """Return whether a check applies; collective for a collective check that may not always.

    Such a check applies where it does so on every rank.
    """
    applies_locally = check.applies(observation)
    if not check.collective or check.applies is always:
        return applies_locally
    return on_all_ranks([applies_locally], observation.context.world_size)[0]
