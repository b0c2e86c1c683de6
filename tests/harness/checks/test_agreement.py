"""What one rank only can judge makes no other rank wait."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from harness import parallel_launch
from harness.checks import agreement, all_checks
from harness.checks.agreement import on_all_ranks
from harness.checks.check import Check, always
from harness.execute import run_case
from harness.record.result import Verdict
from tests.harness.checks.agreement_ranks import judged_by_check_for, names_agreed
from tests.harness.execute_ranks import case, context, run_all

TP = [{"tp_size": 2}, {"tp_size": 2, "use_ep": True}]
DP = [{"dp_size": 2}, {"dp_size": 2, "use_ep": True}]
SECONDS = 60  # a rank that waits for the other would exceed it


def run_layer(name: str, layouts: list[dict]):
    """Results of an outside layer: for each rank, one for each layout."""
    layer = f"tests.harness.outside_layers:{name}"
    ids = [case(experts="own", layer=layer, **fields).id for fields in layouts]
    return parallel_launch(2, run_all, ids, timeout=SECONDS)


@pytest.mark.parametrize(
    ("name", "layouts"),
    [("HandsOutOnRank0", TP), ("SumsOnRank0", TP), ("GathersAndHandsOutOnRank0", DP)],
)
def test_stages_of_one_rank_only_make_no_rank_wait(name, layouts):
    for results in run_layer(name, layouts):
        assert [(r.verdict, r.messages) for r in results] == [(Verdict.PASSED, ())] * len(layouts)


def test_stages_of_one_rank_only_are_judged_there():
    on_rank_0, on_rank_1 = run_layer("SwapsAndHandsOutOnRank0", TP)
    for result in on_rank_0:
        assert any("gemm1" in text for text in result.messages)
    for result in on_rank_1:
        assert result.verdict is Verdict.FAILED
        assert not any("gemm1" in text for text in result.messages)


def test_a_sum_of_another_shape_is_an_error_and_is_not_exchanged():
    layer = "tests.harness.outside_layers:ShortSums"
    result = run_case(case(m=4, experts="own", layer=layer), context())
    assert result.verdict is Verdict.ERROR
    (text,) = result.messages
    assert re.search(r"stage out was handed out as \[\d, 128\]; it must be \[\d, 128\]", text)


def test_names_are_agreed_on_by_all_ranks():
    assert parallel_launch(2, names_agreed, timeout=SECONDS) == [["both"]] * 2


def test_a_single_rank_agrees_with_itself():
    assert on_all_ranks([True, False], 1) == [True, False]


@pytest.mark.parametrize("answer", [True, False])
def test_what_the_case_decides_is_not_exchanged(monkeypatch, answer):
    monkeypatch.setattr(agreement, "on_all_ranks", None)  # an exchange would raise
    seen = SimpleNamespace(context=SimpleNamespace(world_size=2))
    check = Check(name="own", run=lambda _: (), of_case=lambda _: answer, collective=True)
    assert agreement.applies(check, seen) is answer


def test_checks_ask_other_ranks_only_of_what_layers_hand_out():
    asked = {c.name for c in all_checks() if c.collective and c.applies is not always}
    assert asked == {"replicas", "stages"}


def test_a_collective_check_runs_where_it_applies_on_every_rank():
    text = case(tp_size=2).id
    assert parallel_launch(2, judged_by_check_for, [0], text, timeout=SECONDS) == [[], []]
    assert parallel_launch(2, judged_by_check_for, [0, 1], text, timeout=SECONDS) == [
        ["[0, 1]"],
        ["[0, 1]"],
    ]
