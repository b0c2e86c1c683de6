"""A router whose row states no roundings has the same ones in all calls and on all ranks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness import parallel_launch
from harness.checks import agreement
from harness.checks.assumed_roundings import WAY_OUT, explained
from harness.record.result import Verdict
from tests.harness.execute_ranks import case, run_all

PLAIN, NARROW, TOTAL = "plain", "narrow", "total"


def judged(*calls, ranks=1, monkeypatch=None, others=()):
    """What is explained if each call is right under these truths. others: flags of other ranks."""
    truths = (PLAIN, NARROW, TOTAL)
    seen = SimpleNamespace(calls=calls, context=SimpleNamespace(world_size=ranks))
    if others:
        monkeypatch.setattr(agreement, "of_all_ranks", lambda flags, _: [list(flags), *others])
    return explained(
        seen, truths, truths, lambda call, truth: [] if truth in call else [f"not {truth}"]
    )


def flags(*calls):
    return [truth in call for truth in (PLAIN, NARROW, TOTAL) for call in calls]


def test_the_first_that_explains_all_calls_counts():
    got = judged({PLAIN, NARROW}, {NARROW, TOTAL})
    assert (got.truth, got.texts, got.differing) == (NARROW, [[], []], None)


def test_calls_that_are_right_under_different_ones_are_told_with_them():
    got = judged({PLAIN, TOTAL}, {NARROW}, {NARROW})
    assert got.truth == PLAIN
    assert got.texts == [[], ["not plain"], ["not plain"]]
    assert got.differing == (
        "no customary rounding explains all calls and ranks: narrow explains calls 2-3; "
        f"plain explains call 1; {WAY_OUT}"
    )


def test_a_call_that_none_explains_is_simply_wrong():
    got = judged({PLAIN}, set())
    assert (got.truth, got.texts, got.differing) == (PLAIN, [[], ["not plain"]], None)


def test_what_explains_all_ranks_goes_before_what_explains_this_one_first(monkeypatch):
    got = judged({PLAIN, NARROW}, ranks=2, monkeypatch=monkeypatch, others=[flags({NARROW})])
    assert (got.truth, got.texts, got.differing) == (NARROW, [[]], None)


def test_ranks_that_are_right_under_different_ones_are_told_with_them(monkeypatch):
    others = [flags({NARROW}, {NARROW})]
    got = judged({PLAIN}, {PLAIN}, ranks=2, monkeypatch=monkeypatch, others=others)
    assert (got.truth, got.texts) == (PLAIN, [[], []])
    assert (
        "plain explains calls 1-2 of rank 0; narrow explains calls 1-2 of rank 1" in got.differing
    )


def test_a_rank_that_cannot_judge_leaves_no_other_waiting(monkeypatch):
    sent = []
    monkeypatch.setattr(agreement, "of_all_ranks", lambda flags, _: sent.append(flags))

    def broken(call, truth):
        raise RuntimeError(f"no {truth}")

    seen = SimpleNamespace(calls=[1, 2], context=SimpleNamespace(world_size=2))
    with pytest.raises(RuntimeError, match="no plain"):
        explained(seen, (PLAIN, NARROW), (PLAIN, NARROW), broken)
    assert sent == [[False] * 4]


def test_a_stated_rounding_is_not_exchanged(monkeypatch):
    monkeypatch.setattr(agreement, "of_all_ranks", None)  # an exchange would raise
    seen = SimpleNamespace(calls=[{NARROW}], context=SimpleNamespace(world_size=2))
    assert explained(seen, (NARROW,), (NARROW,), lambda *_: []).texts == [[]]


def test_real_ranks_that_round_differently_fail_and_are_named():
    ids = [
        case(m=16, dp_size=2, router=f"tests.harness.checks.rounding_routers:{name}").id
        for name in ("RoundsOnEachRank", "RoundsOnRank1")
    ]
    for alike, differing in parallel_launch(2, run_all, ids, timeout=60):
        assert (alike.verdict, alike.messages) == (Verdict.PASSED, ())
        assert alike.router_assumed == 'RouterNumerics(weights="logits", scaled="same")'
        assert differing.verdict is Verdict.FAILED
        (text,) = differing.messages
        assert "RouterNumerics() explains calls 1-2 of rank 0; " in text
        assert differing.router_assumed is None
