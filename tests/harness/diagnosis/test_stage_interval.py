"""Without a recorded stage that is wrong, it is said which ones may be."""

from __future__ import annotations

import dataclasses

from harness.diagnosis.stage_interval import interval_of, interval_text, judged_after
from harness.record.diagnosis import STAGE_INTERVAL
from tests.harness.diagnosis.explained import CALL, RIGHT, explained
from tests.harness.diagnosis.mistaken import call_of

HEAD = "the first wrong stage is"
NONE = "the experts record none of theirs"


def test_a_member_that_records_nothing_and_hides_its_routing_may_be_wrong_anywhere():
    hidden = f"{HEAD} the routing or after it: {NONE}"
    assert interval_text((), (), tells_routing=False) == hidden
    assert hidden in [pattern.text for pattern in explained(RIGHT * 2.3).patterns]
    call, _ = call_of()
    assert call.routed is None
    assert interval_of(call, is_routing_right=False) is None
    assert interval_of(call, is_routing_right=True).name == STAGE_INTERVAL


def test_a_routing_that_is_right_leaves_what_comes_after_it():
    told = dataclasses.replace(CALL, routed=object())
    text = f"{HEAD} after the routing, which is right: {NONE}"
    assert interval_of(told, is_routing_right=True).text == text


def test_what_is_right_after_the_experts_ends_the_interval_in_the_second_call():
    stages = dict.fromkeys(("ids", "weights", "input", "combine", "finalize", "out"))
    second = dataclasses.replace(CALL, number=1, stages=stages)
    assert interval_of(second, is_routing_right=True).text == (
        f"{HEAD} the routing or after it, and before finalize: {NONE}; finalize, out are right"
    )
    first = dataclasses.replace(second, number=0)
    assert (
        interval_of(first, is_routing_right=True).text == f"{HEAD} the routing or after it: {NONE}"
    )


def test_recorded_stages_that_are_right_are_named():
    assert interval_text(("ids", "gemm2", "gemm1"), (), tells_routing=True) == (
        f"{HEAD} none that was judged; gemm1, gemm2 are right"
    )


def test_a_stage_is_right_only_if_it_was_judged():
    """Of a member that hides its ids `finalize` is recorded, but cannot be judged."""
    hidden = ("finalize", "shared", "out")
    assert judged_after(hidden) == ["shared", "out"]
    assert judged_after(("ids", "weights", "input", "combine", *hidden)) == list(hidden)
    assert judged_after(("out",)) == []
    second = dataclasses.replace(CALL, number=1, stages=dict.fromkeys(hidden))
    assert interval_of(second, is_routing_right=True).text == (
        f"{HEAD} the routing or after it, up to finalize: {NONE}; shared, out are right"
    )
    nan = interval_of(second, is_routing_right=True, has_finite=False)
    assert nan.text == f"{HEAD} the routing or after it: {NONE}"
