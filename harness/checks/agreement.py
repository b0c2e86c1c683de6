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

    from torch import Tensor


def on_all_ranks(flags: Sequence[bool], world_size: int) -> list[bool]:
    """Return which flags every rank has set. Collective over all ranks."""
    if world_size == 1:
        return list(flags)
    sent = torch.tensor(flags, dtype=torch.int32, device="cpu")
    return [bool(flag) for flag in _gathered(sent, world_size).amin(dim=0).tolist()]


def of_all_ranks(flags: Sequence[bool], world_size: int) -> list[list[bool]]:
    """Return the flags of every rank, by rank. Collective over all ranks."""
    if world_size == 1:
        return [list(flags)]
    sent = torch.tensor(flags, dtype=torch.int32, device="cpu")
    return [[bool(flag) for flag in row] for row in _gathered(sent, world_size).tolist()]


def largest_on_all_ranks(values: Sequence[float], world_size: int) -> list[float]:
    """Return the largest of each value over the ranks. Collective over all ranks."""
    if world_size == 1:
        return list(values)
    sent = torch.tensor(values, dtype=torch.float64, device="cpu")
    largest: list[float] = _gathered(sent, world_size).amax(dim=0).tolist()
    return largest


def _gathered(sent: Tensor, world_size: int) -> Tensor:
    """Return the [n] of every rank as [world_size, n].

    Gloo sends half as many messages for it as for a reduction.
    """
    of_ranks = [torch.empty_like(sent) for _ in range(world_size)]
    dist.all_gather(of_ranks, sent)
    return torch.stack(of_ranks)


def names_on_all_ranks(
    names: Collection[str], known: Sequence[str], world_size: int
) -> frozenset[str]:
    """Return those of the `known` names, the same on all ranks, that every rank has. Collective."""
    flags = on_all_ranks([name in names for name in known], world_size)
    return frozenset(name for name, flag in zip(known, flags, strict=True) if flag)


def applies(check: Check, observation: Observation) -> bool:
    """Return whether a check applies; collective for a collective check that may not always.

    Such a check applies where it does so on every rank. What the case decides costs no exchange.
    """
    if not check.of_case(observation):
        return False
    applies_locally = check.applies(observation)
    if not check.collective or check.applies is always:
        return applies_locally
    return on_all_ranks([applies_locally], observation.context.world_size)[0]
