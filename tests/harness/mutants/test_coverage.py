"""The certificate: whole when every wrong answer that can exist was caught somewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.matrix.layout_words import layout_word
from harness.matrix.load import find, load
from harness.mutants.coverage import MEMBERS, certificate
from harness.plan import suites
from harness.plan.machine import planned_for
from harness.record.proof import Outcome
from harness.record.result import CaseResult, Verdict
from tests.harness.mutants.certified_cases import NONE, case, result

ROOT = Path(__file__).parents[3]


def test_all_that_can_exist_caught_is_complete():
    shown = certificate([result(case()), result(case(tp_size=2, quant="fp8_block"))])
    assert shown.complete
    assert shown.lines()[-1] == (
        "complete: on 2 pair(s) of quantization method and layout, "
        "each wrong answer that can exist was caught"
    )


def test_one_case_that_catches_it_is_enough_for_its_pair():
    odd = result(case(seed=1), shared_missing=NONE, zeros=(Outcome.MISSED, "a larger n"))
    assert certificate([odd, result(case())]).complete
    assert certificate([result(case()), odd]).complete


def test_a_catch_on_another_layout_or_method_does_not_count():
    odd = result(case(tp_size=2), shared_missing=NONE)
    shown = certificate([odd, result(case()), result(case(tp_size=2, quant="fp8_block"))])
    assert not shown.complete
    assert {
        (line.quant, line.layout): line.uncovered for line in shown.table if line.uncovered
    } == {("none", "tp:2"): ("shared_missing",)}
    text = "shared_missing is not applicable in any case; add a case where it is: none tp:2"
    assert text in shown.lines()


def test_a_member_that_would_pass_is_named_with_its_remedy():
    shown = certificate([result(case(), Verdict.VACUOUS, halved=(Outcome.MISSED, "a larger n"))])
    assert not shown.complete
    assert "halved would pass; use a larger n: none 1-rank" in shown.lines()
    assert shown.lines()[-1].startswith("incomplete: 1 wrong answer(s)")


def test_what_cannot_exist_is_not_uncovered():
    shown = certificate([result(case())])
    (line,) = shown.table
    assert line.words["rank_missing"] == line.words["scale_shifted"] == "impossible"
    assert line.uncovered == ()
    (line,) = certificate([result(case(dp_size=2, quant="int8_channel"))]).table
    assert line.words["rank_missing"] == line.words["scale_shifted"] == "caught"


def test_cases_that_proved_nothing_leave_their_pair_open():
    failed = CaseResult(case_id=case(dp_size=2).id, verdict=Verdict.FAILED)
    shown = certificate([result(case()), failed])
    assert not shown.complete
    assert any("was not tried: no case passed: none dp:2" in text for text in shown.lines())
    assert not certificate([]).complete
    assert certificate([]).lines()[-1] == "incomplete: no case has proved anything"


def test_the_table_has_a_line_for_each_pair_and_a_sign_for_each_member():
    results = [
        result(case(), shared_missing=NONE),
        result(case(dp_size=2), zeros=(Outcome.MISSED, "more")),
    ]
    lines = certificate(results).lines()
    assert lines[0] == "  1 zeros: nothing was computed: the output is zeros"
    row = next(text for text in lines if text.startswith("none 1-rank"))
    signs = dict(zip((h.name for h in MEMBERS), row.split()[3:], strict=True))
    assert row.split()[2] == "1"
    assert signs["shared_missing"] == "?"
    assert signs["rank_missing"] == "."
    assert signs["zeros"] == "+"
    assert next(text for text in lines if text.startswith("none dp:2")).split()[3] == "!"


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({}, "1-rank"),
        ({"use_ep": True}, "ep"),
        ({"dp_size": 2, "tp_size": 4}, "dp:2-tp:4"),
        ({"tp_size": 2, "use_ep": True, "sequence_parallel": True}, "tp:2-ep-sp"),
    ],
)
def test_layouts_are_called_as_in_case_ids(fields, word):
    assert layout_word(case(**fields).layout) == word


@pytest.mark.parametrize("suite", ["smoke", "ci", "nightly"])
def test_each_suite_has_a_case_for_every_mistake(suite):
    """Of each method on each layout: shared experts, top-k above 1, two tokens or more."""
    pairs = {}
    for one in suites.cases(load(find(ROOT / "configs/matrix.yaml")), suite, planned_for("cpu")):
        have = pairs.setdefault((one.quant, layout_word(one.layout)), set())
        have |= {"shared"} if one.shared_experts else set()
        have |= {"slots"} if one.top_k > 1 else set()
        have |= {"rows"} if min(one.counts) > 1 or one.m > 2 * one.tp_size else set()
    lacking = {pair: have for pair, have in pairs.items() if len(have) < 3}
    assert lacking == {}


def test_it_needs_no_torch():
    code = "import sys, harness.mutants.coverage; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
