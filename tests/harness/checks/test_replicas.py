"""Choices of replicas: of the right expert, alike on equal ranks, and all of them tried."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from harness.checks.replicas import CHECK, MANY
from harness.fixtures.layer_call import Call
from harness.record.result import Verdict
from moe.intermediates import Kept
from moe.layout import Layout
from moe.placement import Placement
from moe.reference.replicas import physical_ids
from moe.types import Routing

HOME = Placement(num_experts=3, physical_to_logical=(0, 1, 2, 0), counts=(2, 2))
AWAY = Placement(num_experts=3, physical_to_logical=(1, 2, 0, 1), counts=(2, 2))
IDS = torch.arange(24).view(12, 2) % 3


def call(number, placement, sent=None, ids=IDS, earlier=()):
    routing = Routing(topk_ids=ids.int(), topk_weights=torch.ones(ids.shape))
    sent = physical_ids(ids, placement) if sent is None else sent
    return Call(
        number=number,
        counts=(len(ids),),
        tokens=SimpleNamespace(x=torch.zeros(len(ids), 4)),
        output=SimpleNamespace(routing=routing),
        answer=None,
        stages={"replicas": Kept(value=sent.int())},
        broken=(),
        placement=placement,
        earlier=earlier,
    )


def judged(*calls, other=None, balancing=True):
    """The findings of one rank, whose partner in the TP group sends `other`."""
    size = 1 if other is None else 2
    tp = SimpleNamespace(size=size, all_gather=lambda sent: torch.cat([sent, other]))
    subject = SimpleNamespace(
        balancing=balancing or None,
        layer=SimpleNamespace(groups=SimpleNamespace(tp=tp)),
        case=SimpleNamespace(layout=Layout(tp_size=size, use_ep=True)),
    )
    context = SimpleNamespace(world_size=1)
    observation = SimpleNamespace(subject=subject, calls=calls, context=context)
    applies = CHECK.of_case(observation) and CHECK.applies(observation)
    return CHECK.run(observation) if applies else None


def texts(*calls, **given):
    return [finding.text for finding in judged(*calls, **given)]


def test_right_choices_on_two_placements_are_no_finding():
    assert judged(call(0, HOME), call(1, AWAY)) == ()


def test_a_layer_that_does_not_balance_or_does_not_tell_is_not_judged():
    assert judged(call(0, HOME), balancing=False) is None


def test_a_slot_with_another_expert_is_told_and_an_earlier_map_recognised():
    stale = call(1, AWAY, sent=physical_ids(IDS, HOME), earlier=(HOME,))
    first = judged(call(0, HOME), stale)[0]
    assert (first.call, first.verdict, first.leads) == (1, Verdict.FAILED, True)
    assert "choices go to a slot with another expert" in first.text
    assert "the map of replicas is that of an earlier placement" in first.text
    beyond = physical_ids(IDS, AWAY)
    beyond[3, 1] = 9
    (text,) = texts(call(0, HOME), call(1, AWAY, sent=beyond))
    assert "1 of 24 choices" in text
    assert "expert 1 as physical expert 9; no placement had it" in text


def test_zero_experts_stay_beyond_the_experts():
    ids = IDS.clone()
    ids[4, 0], ids[5, 1] = 3, 7
    assert judged(call(0, HOME, ids=ids), call(1, AWAY, ids=ids)) == ()
    dropped = physical_ids(ids, HOME)
    dropped[4, 0] = -1
    (text,) = texts(call(0, HOME, sent=dropped, ids=ids), call(1, AWAY, ids=ids))
    assert "1 of 24 choices go to a slot with another expert" in text
    assert text.endswith(
        "expert 3 as physical expert -1; -1 is padding, so that no rank computes them"
    )


def test_ids_of_zero_experts_among_physical_ones_are_told():
    ids = IDS.clone()
    ids[4, 0] = 3
    sent = physical_ids(ids, HOME)
    sent[4, 0] = 3
    (text,) = texts(call(0, HOME, sent=sent, ids=ids), call(1, AWAY, ids=ids))
    assert text.endswith(
        "expert 3 as physical expert 3; ids of zero experts (3 and above) must stay above all "
        f"{len(HOME.physical_to_logical)} physical experts, which no rank has"
    )


def test_ranks_with_the_same_tokens_that_differ_are_told():
    sent = physical_ids(IDS, HOME)
    other = sent.clone()
    rows = (IDS == 0).any(dim=1).nonzero().flatten()[:2]
    other[rows] = torch.where(other[rows] == 0, 3, torch.where(other[rows] == 3, 0, other[rows]))
    told = judged(call(0, HOME), call(1, HOME), other=other)
    assert "ranks of one TP group chose different replicas for 2 of 12 tokens" in told[0].text


def test_another_choice_than_the_stated_one_is_told():
    first = torch.tensor([0, 1, 2])[IDS]
    (text,) = [t for t in texts(call(0, HOME, sent=first), call(1, AWAY)) if "stated" in t]
    assert "choices are not the stated ones" in text
    assert "and not 3; choose by moe.eplb.replicas" in text


def test_a_replica_without_tokens_is_vacuous_and_with_many_tokens_wrong():
    few = IDS[:1]
    told = judged(call(0, HOME), call(1, AWAY, ids=few))
    assert [f.verdict for f in told] == [Verdict.VACUOUS]
    assert "got none of" in told[0].text
    assert "more tokens would try each" in told[0].text
    many = torch.zeros((2 * MANY, 1), dtype=torch.int64)
    told = judged(call(0, HOME, ids=many, sent=torch.zeros_like(many)), call(1, AWAY))
    assert told[-1].verdict is Verdict.FAILED
    assert told[-1].text.endswith("1 got none of 32 tokens (spread tokens over replicas)")


def test_experts_that_never_move_prove_nothing():
    told = judged(call(0, HOME), call(1, HOME))
    assert [f.verdict for f in told] == [Verdict.VACUOUS]
    assert "no rebalance moved an expert" in told[0].text


def test_padding_and_zero_experts_go_nowhere():
    ids = torch.cat([IDS, torch.tensor([[-1, -1], [0, 4]])])
    assert judged(call(0, HOME, ids=ids), call(1, AWAY, ids=ids)) == ()
