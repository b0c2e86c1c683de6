"""Check the loads by which experts are rebalanced: the rows of each expert in the last calls.

Outputs do not depend on them, so that a count of calls that left the window long ago, or of other
experts, shows nowhere else: experts would only be placed for old traffic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks.check import Check, Observation
from harness.record.result import Finding
from moe.collectives import Group

if TYPE_CHECKING:
    from torch import Tensor

    from harness.fixtures.layer_call import Call

STAGE = "ids"
ADVICE = (
    "replace a call's counts when the window comes round, and count by the placement of the call"
)
# Ways to call a layer in which it runs once for each call: the window has a row for each run.
_ONCE = frozenset({"eager", "small_tiles", "strided", "overwritten"})


def counts_loads(observation: Observation) -> bool:
    """Tell whether the layer counts loads, once for each call, and hands out its local ids."""
    return (
        observation.subject.balancing is not None
        and observation.subject.case.call in _ONCE
        and all(STAGE in call.stages for call in observation.calls)
    )


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Compare this rank's window, after all calls of the case, with their local ids."""
    balancing = observation.subject.balancing
    assert balancing is not None, "the check applies to layers with load balancing only"
    slots = balancing.slots
    window = slots.load.calls
    last = observation.calls[-len(window) :]
    expected = sum((_rows(call, slots.ep_rank) for call in last), torch.zeros_like(window[0].cpu()))
    counted = window.sum(dim=0).cpu()
    reported = torch.tensor(slots.load.total(Group(handle=None, size=1, rank=0)))  # its own alone
    for loads, verb, advice in (
        (counted, "counts", ADVICE),
        (reported, "is reported with", "add up all calls of the window for the balancer"),
    ):
        if torch.equal(loads, expected):
            continue
        expert = int((loads != expected).nonzero()[0])
        text = (
            f"loads: expert {expert} {verb} {int(loads[expert])} rows on this rank, and the last "
            f"{len(last)} of {len(observation.calls)} call(s) had {int(expected[expert])}: {advice}"
        )
        return (Finding(check=CHECK.name, call=observation.calls[-1].number, text=text),)
    return ()


def _rows(call: Call, ep_rank: int) -> Tensor:
    """Return [E] int64, the rows of each logical expert on this rank in a call."""
    assert call.placement is not None
    local_experts = torch.tensor(call.placement.experts_of(ep_rank), dtype=torch.int64)
    ids = call.stages[STAGE].value.flatten().long().cpu()
    return torch.bincount(local_experts[ids[ids >= 0]], minlength=call.placement.num_experts)


CHECK = Check(
    name="expert_loads", run=findings, applies=counts_loads, by_reference=False, collective=False
)
