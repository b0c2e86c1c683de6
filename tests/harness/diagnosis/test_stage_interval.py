"""Without a recorded stage that is wrong, it is said which ones may be."""

from __future__ import annotations

import dataclasses

from harness.diagnosis.stage_interval import NAME, interval_of, interval_text
from tests.harness.diagnosis.explained import CALL, RIGHT, explained
from tests.harness.diagnosis.mistaken import call_of


def test_a_member_that_records_nothing_and_hides_its_routing_may_be_wrong_anywhere():
    hidden = "the first wrong stage is the routing or anything after it: none is recorded"
    assert interval_text((), tells_routing=False) == hidden
    assert hidden in [pattern.text for pattern in explained(RIGHT * 2.3).patterns]
    call, _ = call_of()
    assert call.routed is None
    assert interval_of(call, is_routing_right=False) is None
    assert interval_of(call, is_routing_right=True).name == NAME


def test_a_routing_that_is_right_leaves_what_comes_after_it():
    text = "the first wrong stage is after the routing, which is right: no other is recorded"
    assert interval_text(("ids", "weights"), tells_routing=True) == text
    told = dataclasses.replace(CALL, routed=object())
    assert interval_of(told, is_routing_right=True).text == text


def test_recorded_stages_that_are_right_are_named():
    assert interval_text(("ids", "gemm2", "gemm1"), tells_routing=True) == (
        "no recorded stage is wrong by itself (gemm1, gemm2): the first wrong stage is one that is "
        "not recorded, or between ranks in the first call, where it is not judged"
    )
