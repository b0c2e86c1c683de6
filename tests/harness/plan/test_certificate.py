"""A certificate counts what the cases have, and does not take an excuse that a case refutes."""

from collections import Counter
from dataclasses import replace

import pytest

from harness.matrix.covering.oracle import Oracle
from harness.plan import suites
from harness.plan.certificate import certify
from harness.plan.machine import planned_for
from harness.plan.plan import make_plan
from tests.harness.matrix.covering.blocks import config_of, suite

CPU = planned_for("cpu")
AXES = """shapes: [[4, 128, 256], [8, 192, 64]], top_k: [1, 2, 3],
         experts: [torch_loop, torch_grouped, vllm_triton], quant: [none, fp8_block],
         dtype: [bf16, f32], layouts: [{}, {tp: 2}]"""
PAIRWISE = f"{{select: pairwise, {AXES}}}"


def certificate_of(folder, block, change=lambda cases: cases):
    """The certificate of a block, counted on changed cases of its suite."""
    config = config_of(folder, suite(block))
    cases = make_plan(suites.cases(config, "one", CPU), CPU).cases
    return certify(config.suites["one"].blocks[0], config.defaults, CPU, change(cases))


def without(value):
    return lambda cases: [case for case in cases if value not in case.id]


def test_a_covering_block_is_covered(tmp_path):
    certificate = certificate_of(tmp_path, PAIRWISE)
    ((label, count),) = certificate.counts
    assert certificate.uncovered == ()
    assert label == "any 2 of 6 axes"
    assert count.total == 81  # of 2, 3, 3, 2, 2 and 2 values
    assert count.infeasible.keys() >= {"platform_lacks_feature", "dtype_unsupported"}
    assert count.covered == count.feasible == 81 - count.infeasible.total()
    assert certificate.in_suite >= count.bound


def test_each_pair_of_a_case_that_is_left_out_is_named(tmp_path):
    certificate = certificate_of(tmp_path, PAIRWISE, without("dtype:f32"))
    assert "experts=torch_loop, dtype=f32" in certificate.uncovered
    assert "dtype=f32, layouts=tp:2" in certificate.uncovered
    own = [text for text in certificate.uncovered if "dtype=f32" in text]
    # With shapes and layouts 2, top_k 3, torch_loop, and quant 2.
    assert len(own) == 2 + 3 + 1 + 2 + 2


def test_a_submodel_has_a_count_of_its_own(tmp_path):
    words = "submodels: [{axes: [top_k, dtype, layouts], strength: 3}], select"
    certificate = certificate_of(tmp_path, PAIRWISE.replace("select", words, 1))
    assert [label for label, _ in certificate.counts] == [
        "any 2 of 6 axes",
        "any 3 of top_k, dtype, layouts",
    ]
    assert certificate.counts[1][1].feasible == 12
    plain = certificate_of(tmp_path, PAIRWISE.replace("select", words, 1), lambda cases: cases[:8])
    assert "top_k" in plain.uncovered[-1]


def test_random_cases_promise_nothing_and_are_counted(tmp_path):
    certificate = certificate_of(tmp_path, PAIRWISE.replace("pairwise", "'random(3, 0)'"))
    ((_, count),) = certificate.counts
    assert count.covered < count.feasible
    assert certificate.uncovered == ()
    assert certificate.in_suite == 3


def test_each_point_of_a_full_block_is_a_case_or_refused(tmp_path):
    certificate = certificate_of(tmp_path, f"{{{AXES}}}")
    refused = certificate.refused
    assert certificate.in_suite + refused.total() == certificate.space.size == 144
    assert refused.keys() >= {"platform_lacks_feature", "block_straddles_shard"}
    assert certificate.uncovered == ()
    missing = certificate_of(tmp_path, f"{{{AXES}}}", lambda cases: cases[1:])
    assert len(missing.uncovered) == 1
    assert missing.uncovered[0].startswith("m:")


def test_an_excuse_that_cases_refute_is_not_taken(tmp_path, monkeypatch):
    """An oracle that calls everything impossible would excuse every missing case."""
    monkeypatch.setattr(Oracle, "reasons", lambda self, literals: frozenset({"made_up"}))
    certificate = certificate_of(tmp_path, PAIRWISE, without("dtype:f32"))
    assert any("dtype=f32" in text for text in certificate.uncovered)


@pytest.mark.parametrize("block", ["{shapes: [[4, 64, 64]], experts: [torch_loop]}"])
def test_a_block_of_one_point(tmp_path, block):
    certificate = certificate_of(tmp_path, block)
    assert (certificate.in_suite, certificate.refused) == (1, Counter())
    more = certificate_of(tmp_path, block, lambda cases: [*cases, replace(cases[0], m=5)])
    assert more.in_suite == 1  # a block without axes has no values that tell another case apart
    covering = certificate_of(tmp_path, block.replace("{shapes", "{select: pairwise, shapes"))
    assert (covering.in_suite, covering.uncovered) == (1, ())
