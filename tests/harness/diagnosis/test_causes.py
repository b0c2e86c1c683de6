"""Known mistakes are named with their place; what none of them explains is not."""

from __future__ import annotations

import pytest
import torch

from harness import mutants
from harness.diagnosis import causes
from harness.diagnosis.fit import MAX_RESIDUAL
from harness.diagnosis.patterns import find_mismatch
from harness.mutants import Hypothesis, NotApplicable
from harness.record.diagnosis import Share
from tests.harness.diagnosis.explained import CALL, RIGHT, explained, names, texts
from tests.harness.diagnosis.mistaken import scene, with_output


def test_one_mistake_in_some_rows_only():
    out = RIGHT.clone()
    out[1::2] *= 2
    found = explained(out)
    assert texts(found) == ["odd rows only"]
    assert names(found)[0] == "doubled"
    assert found.causes[0].where == "in the wrong rows only"


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


def test_rows_in_other_rows_places():
    order = torch.randperm(40, generator=torch.Generator().manual_seed(5))
    found = explained(RIGHT[order])
    assert names(found) == ["rows_moved"]
    assert found.causes[0].cause.startswith("wrong rows hold other rows' outputs: row 0 that")
    found = explained(torch.cat([RIGHT[-3:], RIGHT[:-3]]))
    text = "each wrong row holds the output of the row 3 before it"
    assert found.causes[0].cause == text
    found = explained(RIGHT[torch.tensor([*range(20), *[4] * 20])])
    assert found.causes[0].cause.endswith("all hold the output of row 4")


@pytest.mark.parametrize(("step", "side", "empty"), [(-2, "after", "38-39"), (2, "before", "0-1")])
def test_rows_that_moved_leave_zeros_behind(step, side, empty):
    out = RIGHT.roll(step, 0)
    out[slice(step, None) if step < 0 else slice(step)] = 0
    found = explained(out)
    assert names(found) == ["rows_moved"]
    text = f"each wrong row holds the output of the row 2 {side} it; rows {empty}"
    assert found.causes[0].cause == f"{text}, which have no such row, are zeros"


def test_zeros_that_have_a_row_to_come_from_are_not_explained_by_rows_that_moved():
    out = RIGHT.roll(-2, 0)
    out[10:20] = 0
    assert names(explained(out)) == []


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
    return causes.search(scene(call), call, wrong, rows, seconds=600.0)


def made(compute, name="made"):
    row = Hypothesis(name=name, family="rows", cause="made up")
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
    result = causes.search(scene(call), call, wrong, mutants.HYPOTHESES, seconds=-1.0)
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
