"""Known mistakes are named with their place; what none of them explains is not."""

from __future__ import annotations

import pytest
import torch

from harness import mutants
from harness.diagnosis import causes
from harness.diagnosis.evidence import Evidence
from harness.diagnosis.fit import MAX_RESIDUAL
from harness.diagnosis.patterns import find_mismatch
from harness.fixtures.layer_call import MAX_ROWS
from harness.mutants import FEW, Hypothesis, NotApplicable
from harness.record.diagnosis import Share
from tests.harness.diagnosis.explained import CALL, RIGHT, explained, names, texts
from tests.harness.diagnosis.mistaken import scene, with_output


def test_one_mistake_in_some_rows_only():
    out = RIGHT.clone()
    out[1::2] *= 2
    found = explained(out)
    assert texts(found) == ["odd rows only"]
    assert names(found) == ["which_shares", "doubled"]
    assert found.causes[0].cause == "the shares of odd rows count twice"
    assert [cause.where for cause in found.causes] == ["", "in the wrong rows only"]


def test_one_mistake_in_some_columns_only():
    out = RIGHT.clone()
    out[:, 128:256] *= -1
    found = explained(out)
    assert texts(found) == ["all rows", "columns 128-255 only: one block of 128"]
    assert (found.causes[0].name, found.causes[0].where) == (
        "negated",
        "in the wrong columns only",
    )
    assert found.facts.columns == Share(wrong=128, of=384, numbers="128-255")


@pytest.mark.parametrize("size", [0.02, 0.1, 1.0, 10.0])
def test_noise_has_no_known_cause(size):
    generator = torch.Generator().manual_seed(2)
    unit = RIGHT.square().mean(dim=1, keepdim=True).sqrt()
    noise = torch.randn(RIGHT.shape, generator=generator) * unit * size
    found = explained(RIGHT + noise)
    assert found.causes == ()
    assert found.tried > 25
    assert found.closest > MAX_RESIDUAL
    assert found.faults == ()


def search(out, rows=()):
    call = with_output(CALL, out)
    wrong = find_mismatch(call.output.out, call.answer)
    return causes.search(Evidence(scene(call), call, wrong), rows, seconds=600.0)


def made(compute, name="made", **kw):
    row = Hypothesis(name=name, family="rows", cause="made up", **kw)
    object.__setattr__(row, "compute", compute)
    return row


def test_a_near_miss_is_not_named():
    """Half of the distance is explained: closer than anything else, but no cause."""
    result = search(RIGHT * 2, [made(lambda s: s.answer.out * 1.5)])
    assert (result.causes, result.closest) == ((), pytest.approx(0.5, rel=0.02))


def test_what_a_hypothesis_says_of_itself_is_counted():
    def not_here(scene):
        raise NotApplicable("one token")

    def broken(scene):
        raise IndexError("out of range")

    right = made(lambda s: s.answer.out[:4] * 2, "right")
    result = search(RIGHT * 2, [made(not_here), made(broken, "bad"), right])
    assert [cause.name for cause in result.causes] == ["right"]
    assert (result.not_applicable, result.tried) == (1, 1)
    assert result.faults == ("bad: IndexError: out of range",)


def test_time_runs_out_without_a_fault():
    call = with_output(CALL, RIGHT * 2)
    wrong = find_mismatch(call.output.out, call.answer)
    evidence = Evidence(scene(call), call, wrong)
    result = causes.search(evidence, mutants.HYPOTHESES, seconds=-1.0)
    assert result.untried == len(mutants.HYPOTHESES)
    assert result.causes == ()


def test_nan_on_both_sides_fits_and_on_one_does_not():
    out = RIGHT.clone()
    out[5] = float("nan")

    def poisoned(scene):
        predicted = scene.answer.out.clone()
        predicted[scene.rows == 5] = float("nan")
        return predicted

    found = search(out, [made(poisoned), made(lambda s: s.answer.out, "right")])
    assert [cause.name for cause in found.causes] == ["made"]


def counted(compute, calls, **kw):
    """A mistake that notes how many rows it was asked for."""

    def noting(scene):
        calls.append(scene.few)
        return compute(scene.few_rows())

    return made(noting, costly=True, **kw)


def test_a_costly_mistake_is_computed_for_one_row_and_for_more_only_if_that_fits():
    calls, others = [], []
    right = counted(lambda s: s.answer.out * 2, calls, name="right")
    other = counted(lambda s: s.answer.out * 3, others, name="other")
    result = search(RIGHT * 2, [other, right])
    assert [cause.name for cause in result.causes] == ["right"]
    assert (result.tried, calls, others) == (2, [1, FEW, MAX_ROWS], [1])


def test_a_costly_mistake_that_fits_one_wrong_row_of_some_is_not_named():
    calls = []
    halves = torch.ones(40, 1)
    halves[1:] = 2
    result = search(RIGHT * 3, [counted(lambda s: s.answer.out * 3 / halves[s.rows], calls)])
    assert (result.causes, calls) == ((), [1, FEW])
    assert result.closest > 0.1  # of the few rows, not of the one that fits


def test_frequent_mistakes_are_tried_first_and_cheap_ones_before_costly_ones():
    order = []

    def noted(name, **kw):
        return made(lambda s: (order.append(name), s.answer.out)[1], name=name, **kw)

    rare, frequent = noted("rare"), noted("frequent", battery=True)
    costly = noted("costly", costly=True, battery=True)
    search(RIGHT * 2, [costly, rare, frequent])
    assert order == ["frequent", "rare", "costly"]


@pytest.mark.parametrize(("case_seconds", "seconds"), [(0.0, 1.0), (0.4, 1.0), (3.0, 6.0)])
def test_a_search_may_take_twice_the_case_and_always_a_second(case_seconds, seconds, monkeypatch):
    monkeypatch.setattr(causes, "SECONDS", 1.0)
    assert causes.budget(case_seconds) == seconds


def test_a_mistake_whose_residual_is_no_number_is_not_the_closest():
    progress = causes._Progress(end=0.0)
    for residual in (float("nan"), 0.5, float("inf")):
        progress.add(made(None), None, residual)
    assert (progress.result().closest, progress.result().tried) == (0.5, 3)


def test_a_mistake_that_fits_few_rows_is_tested_on_right_ones_and_on_more_wrong_ones():
    """Of four wrong rows nothing tells that a mistake should show in others, too."""
    out = RIGHT.clone()
    out[:6] *= 2
    doubled = counted(lambda s: s.answer.out * 2, [], name="doubled")
    assert [c.where for c in search(out, [doubled]).causes] == ["in the wrong rows only"]

    out[6:20] *= 3
    in_the_first = counted(
        lambda s: s.answer.out * torch.where(s.rows < 6, 2, 1)[:, None], [], name="first"
    )
    assert search(out, [in_the_first]).causes == ()
