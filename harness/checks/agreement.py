"""Agree between ranks before a collective, so that none waits for a rank that does not take part.

What a layer hands out, and so what a check can judge, may differ from rank to rank.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks.check import Check, Observation, always

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from moe.collectives import Groups


def on_all_ranks(groups: Groups, flags: Sequence[bool], device: torch.device) -> list[bool]:
    """Collective over the gather group, then over the TP group: which flags every rank has set.

    Every rank of the layout is in one of the gather groups of this rank's TP group.
    """
    gathered = torch.tensor([flags], dtype=torch.int32, device=device)
    for group in (groups.gather, groups.tp):
        gathered = group.all_gather(gathered).amin(dim=0, keepdim=True)
    return [bool(flag) for flag in gathered[0].tolist()]


def names_on_all_ranks(
    groups: Groups, names: Collection[str], known: Sequence[str], device: torch.device
) -> frozenset[str]:
    """Collective: those of the `known` names, the same on all ranks, that every rank has."""
    flags = on_all_ranks(groups, [name in names for name in known], device)
    return frozenset(name for name, flag in zip(known, flags, strict=True) if flag)


def applies(check: Check, observation: Observation) -> bool:
    """Return whether a check applies; collective for a collective check that may not always.

    Such a check applies where it does so on every rank.
    """
    applies_locally = check.applies(observation)
    if not check.collective or check.applies is always:
        return applies_locally
    groups, device = observation.subject.layer.groups, observation.context.device
    return on_all_ranks(groups, [applies_locally], device)[0]
