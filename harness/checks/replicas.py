"""Check where load balancing sends tokens: to a replica of their expert, the same on equal ranks.

A right output proves nothing of replicas that no token went to, nor of experts that never moved:
such a case is vacuous.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from harness.checks.check import Check, Observation, call_prefix
from harness.record.formatting import numbers_text
from harness.record.result import Finding, Verdict
from moe.reference.replicas import physical_ids

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.fixtures.layer_call import Call
    from moe.placement import Placement

STAGE = "replicas"
MANY = 16  # tokens of an expert for each of its replicas, none of which may then go without any


def moves_experts(observation: Observation) -> bool:
    """Tell whether the layer balances its load."""
    return observation.subject.balancing is not None


def hands_out_replicas(observation: Observation) -> bool:
    """Tell whether the layer hands out where it sends tokens."""
    return all(STAGE in call.stages for call in observation.calls)


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Judge the choices of all calls, and what they leave untried. Collective."""
    choice_findings = [f for call in observation.calls for f in _wrong_choices(observation, call)]
    untried = [*_unused(observation), *_unmoved(observation)]
    return (*choice_findings, *untried)


def _wrong_choices(observation: Observation, call: Call) -> Iterator[Finding]:
    """Yield what is wrong in a call's choice of replicas. Collective over the TP group."""
    assert call.placement is not None
    sent, ids = call.stages[STAGE].value.long(), _ids(call)
    texts = [
        _of_other_experts(sent, ids, call),
        _differing(observation, sent),
        _unlike_the_rule(sent, ids, call.placement),
    ]
    text = next((text for text in texts if text is not None), None)
    if text is not None:
        yield Finding(check=CHECK.name, call=call.number, text=call_prefix(call) + text, leads=True)


def _ids(call: Call) -> Tensor:
    """Return the logical ids [T, k] of all rows, those without a defined output included."""
    routing = call.output.routing if call.routed is None else call.routed.routing
    return routing.topk_ids.long()


def _held(sent: Tensor, placement: Placement) -> Tensor:
    """Return the logical ids that physical ones stand for, [T, k]; of zero experts, too, and -1."""
    slots = len(placement.physical_to_logical)
    held = torch.tensor(placement.physical_to_logical, device=sent.device)
    beyond = torch.where(sent < slots, sent, sent - slots + placement.num_experts)
    return torch.where((sent >= 0) & (sent < slots), held[sent.clamp(0, slots - 1)], beyond)


def _of_other_experts(sent: Tensor, ids: Tensor, call: Call) -> str | None:
    """Return a message if tokens are sent to slots that hold another expert."""
    assert call.placement is not None
    is_wrong = _held(sent, call.placement) != ids
    if not bool(is_wrong.any()):
        return None
    row, slot = (int(i) for i in is_wrong.nonzero()[0])
    stale = any(torch.equal(_held(sent, before), ids) for before in call.earlier)
    first = (
        f"replicas: {int(is_wrong.sum())} of {is_wrong.numel()} choices go to a slot with another "
        f"expert, first token {row}: expert {int(ids[row, slot])} as physical expert "
        f"{int(sent[row, slot])}; "
    )
    if bool((sent[is_wrong] < 0).all()):
        return first + "-1 is padding, so that no rank computes them"
    experts = call.placement.num_experts
    if bool((ids[is_wrong] >= experts).all()):
        return (
            f"{first}ids of zero experts ({experts} and above) must stay above all "
            f"{len(call.placement.physical_to_logical)} physical experts, which no rank has"
        )
    if stale:
        cause = "the map of replicas is that of an earlier placement"
        return f"{first}{cause}: change the map together with the weights"
    return f"{first}no placement had it there: choose among the replicas of the token's expert"


def _differing(observation: Observation, sent: Tensor) -> str | None:
    """Return a message if ranks with the same tokens chose different replicas. Collective."""
    tp, layout = observation.subject.layer.groups.tp, observation.subject.case.layout
    if tp.size == 1 or layout.sequence_parallel or len(sent) == 0:
        return None
    by_rank = tp.all_gather(sent).view(tp.size, *sent.shape)
    rows = (by_rank != by_rank[0]).any(dim=0).any(dim=1).nonzero().flatten().tolist()
    if not rows:
        return None
    return (
        f"replicas: ranks of one TP group chose different replicas for {len(rows)} of {len(sent)} "
        f"tokens ({numbers_text(rows)}): each sends its tokens to other experts, so that a replica "
        "is added twice or not at all; choose by the token's row and the expert alone"
    )


def _unlike_the_rule(sent: Tensor, ids: Tensor, placement: Placement) -> str | None:
    """Return a message if the choice is not the stated function of row and expert."""
    ruled = physical_ids(ids, placement)
    is_other = sent != ruled
    if not bool(is_other.any()):
        return None
    row, slot = (int(i) for i in is_other.nonzero()[0])
    return (
        f"replicas: {int(is_other.sum())} of {is_other.numel()} choices are not the stated ones, "
        f"first token {row}, expert {int(ids[row, slot])}: physical expert {int(sent[row, slot])} "
        f"and not {int(ruled[row, slot])}; choose by moe.eplb.replicas"
    )


def _unused(observation: Observation) -> Iterator[Finding]:
    """Yield a finding if tokens are not spread, or never reached all replicas after a rebalance.

    Collective over all ranks.
    """
    untried: list[Finding | None] = []
    for calls in _by_placement(observation).values():
        placement = calls[0].placement
        assert placement is not None
        tokens = torch.zeros(len(placement.physical_to_logical), dtype=torch.int64)
        for call in calls:
            sent = call.stages[STAGE].value.long().flatten().cpu()
            tokens += torch.bincount(sent[sent >= 0], minlength=len(tokens))[: len(tokens)]
        if observation.context.world_size > 1:
            dist.all_reduce(tokens)
        untried.append(_of_unused(tokens.tolist(), placement, calls))
    tried = [finding for finding in untried if finding is not None]
    unfair = [finding for finding in tried if finding.verdict is Verdict.FAILED]
    after = untried[1:]
    if unfair or (after and None not in after):
        yield unfair[0] if unfair else tried[-1]


def _by_placement(observation: Observation) -> dict[tuple[int, ...], list[Call]]:
    """Return the calls by the placement that they were on, the first placement first."""
    calls_on: dict[tuple[int, ...], list[Call]] = {}
    for call in observation.calls:
        assert call.placement is not None
        calls_on.setdefault(call.placement.physical_to_logical, []).append(call)
    return calls_on


def _of_unused(tokens: list[int], placement: Placement, calls: list[Call]) -> Finding | None:
    """Return a finding on the first expert of whose replicas one got no token. tokens: [P]."""
    for expert, replicas in enumerate(placement.logical_to_physical):
        counts = [tokens[p] for p in replicas]
        if len(replicas) == 1 or min(counts) > 0:
            continue
        is_unfair = sum(counts) >= MANY * len(replicas)
        advice = "spread tokens over replicas" if is_unfair else "more tokens would try each"
        text = (
            f"replicas: of expert {expert}'s {len(replicas)} replicas "
            f"{counts.count(0)} got none of {sum(counts)} tokens ({advice})"
        )
        verdict = Verdict.FAILED if is_unfair else Verdict.VACUOUS
        text = call_prefix(calls[0]) + text
        return Finding(check=CHECK.name, call=calls[0].number, text=text, verdict=verdict)
    return None


def _unmoved(observation: Observation) -> Iterator[Finding]:
    """Yield a finding if every call found the experts where they had been at first."""
    places = {call.placement for call in observation.calls}
    if len(places) == 1:
        text = "replicas: no rebalance moved an expert: every rank holds the same ones"
        yield Finding(check=CHECK.name, text=text, verdict=Verdict.VACUOUS)


CHECK = Check(
    name="replicas",
    run=findings,
    of_case=moves_experts,
    applies=hands_out_replicas,
    collective=True,
)
