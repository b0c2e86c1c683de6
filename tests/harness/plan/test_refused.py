"""The points that a plan refuses, with their reasons."""

from harness.matrix.case_list import case_list
from harness.plan.refused import Refusal, Refused
from moe.reason import Reason
from tests.harness.plan.points import case

ONE, TWO = Reason(code="one", text="x"), Reason(code="two", text="y")
POINTS = [case(seed=seed) for seed in range(4)]
REFUSED = Refused(case_list(POINTS), [ONE, TWO, ONE, TWO])


def test_each_point_has_its_reason():
    assert [(r.case, r.reason) for r in REFUSED] == list(zip(POINTS, [ONE, TWO] * 2, strict=True))
    assert REFUSED[3] == Refusal(case=POINTS[3], reason=TWO)
    assert REFUSED[1:3] == [
        Refusal(case=POINTS[1], reason=TWO),
        Refusal(case=POINTS[2], reason=ONE),
    ]
    assert len(REFUSED) == 4
    assert Refused() == ()
    assert Refused() != REFUSED


def test_reasons_are_counted_and_each_has_an_example():
    assert REFUSED.counts() == {"one": 2, "two": 2}
    assert [r.case for r in REFUSED.examples()] == POINTS[:2]


def test_refusals_are_narrowed_and_joined():
    first = REFUSED.where(i < 2 for i in range(4))
    assert [r.case for r in first] == POINTS[:2]
    more = first.joined(REFUSED.cases[2:], [TWO, ONE])
    assert [(r.case, r.reason) for r in more] == list(
        zip(POINTS, [ONE, TWO, TWO, ONE], strict=True)
    )
