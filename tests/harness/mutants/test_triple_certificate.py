"""Beside each three values that a case has, what can exist there was caught in some case."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.mutants.triple_certificate import range_word, triple_certificate, values_of
from harness.record.proof import Outcome
from harness.record.result import CaseResult, Verdict
from tests.harness.mutants.certified_cases import case, result

ROOT = Path(__file__).parents[3]
SMALL = (Outcome.NOT_APPLICABLE, "rolling 1 row(s) by 1 changes none")
WEAK = (Outcome.MISSED, "a larger n")


def gaps(*results):
    return triple_certificate(results).gaps


def test_all_that_can_exist_caught_leaves_no_gap():
    shown = triple_certificate([result(case()), result(case(dp_size=2, dtype="fp16"))])
    assert shown.gaps == ()
    assert shown.count > 1000
    assert shown.lines() == [
        f"complete: of {shown.count} combination(s) of a wrong answer and three values that a "
        "case has, each was caught"
    ]


def test_a_catch_counts_for_the_values_of_its_own_case_only():
    left = gaps(result(case(), halved=WEAK), result(case(dtype="fp16")))
    assert {gap.mistake for gap in left} == {"halved"}
    assert all(("dtype", "bf16") in gap.values for gap in left)
    assert gaps(result(case(), halved=WEAK), result(case(seed=1))) == ()


def test_what_cannot_exist_in_a_case_is_no_gap():
    """One token cannot be exchanged with another, and weights of one slot are one."""
    plain = case(m=1, top_k=1, activation="silu_no_mul")
    absent = ("rolled", "swapped", "weights_ignored", "shared_missing", "gate_up_swapped")
    assert gaps(result(plain, **dict.fromkeys(absent, SMALL))) == ()
    assert {gap.mistake for gap in gaps(result(case(), rolled=SMALL))} == {"rolled"}
    shared = result(case(shared_experts=1), shared_missing=SMALL)
    assert {gap.mistake for gap in gaps(shared)} == {"shared_missing"}


def test_a_gap_is_shown_with_its_values_and_what_to_do():
    lines = triple_certificate([result(case(), halved=WEAK)]).lines()
    assert lines[0].startswith(
        "halved would pass; use a larger n: experts:torch_loop quant:none layout:1-rank, "
    )
    assert lines[0].endswith(" more")
    assert lines[1].startswith("incomplete: of ")
    (line, _) = triple_certificate([result(case(), rolled=SMALL)]).lines()
    assert "rolled is not applicable (rolling 1 row(s) by 1 changes none); add a case: " in line


def test_a_case_without_a_self_check_proves_nothing_and_asks_for_nothing():
    failed = CaseResult(case_id=case(dtype="fp16").id, verdict=Verdict.FAILED)
    alone = triple_certificate([result(case())])
    assert triple_certificate([result(case()), failed]) == alone


def test_the_rows_of_a_tile_are_those_of_the_largest_that_was_launched():
    kernels = ("_gemm(int32) [BLOCK_M=16 BLOCK_N=64]", "_fused [BLOCK_SIZE_M=64]", "_add() []")
    assert values_of(case(), kernels)["tile rows"] == "64"
    assert values_of(case(), ())["tile rows"] == "none"


@pytest.mark.parametrize(
    ("number", "word"),
    [(0, "0-1"), (1, "0-1"), (2, "2-4"), (4, "2-4"), (16, "5-16"), (64, "17-64"), (65, "65+")],
)
def test_numbers_are_put_into_ranges(number, word):
    assert range_word(number, (1, 4, 16, 64)) == word


def test_a_range_of_one_number_is_that_number():
    assert [range_word(n, (1, 2, 4)) for n in (1, 2, 3, 5)] == ["0-1", "2", "3-4", "5+"]


def test_it_needs_no_torch():
    code = "import sys, harness.mutants.triple_certificate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
