"""A member that never comes near its bound is hinted at; few cases, and true rows, are not."""

from __future__ import annotations

import pytest

from harness.matrix.case import MoETestConfig
from harness.record.result import CaseResult, Verdict
from harness.report import bound_slack

CASE = MoETestConfig(m=8, n=128, k=128, num_experts=4, top_k=2, experts="triton", quant="fp8_block")


def results(count: int, used: float, verdict: Verdict = Verdict.PASSED, **fields: object):
    cases = (CASE.replace(seed=seed, **fields) for seed in range(count))
    metrics = {"bound_used": used}
    return [CaseResult(case_id=c.id, verdict=verdict, metrics=metrics) for c in cases]


def test_a_member_that_stays_far_below_its_bounds_is_named():
    other = results(20, 0.6, experts="torch_loop")
    (hint,) = bound_slack.hints([*results(20, 0.052), *other])
    assert hint == (
        "backend triton, quant fp8_block, used at most 5.2 % of its tolerance in 20 cases: its "
        "`Numerics` are probably too loose"
    )


@pytest.mark.parametrize(
    "given",
    [
        results(3, 0.05),  # too few
        [*results(20, 0.05), *results(1, 0.3, n=256)],  # one case came nearer
        results(20, 0.05, Verdict.FAILED),
        results(20, 0.13),  # as fp8 on Hopper
        results(20, 0.0, exact=True),  # nothing is allowed there, and nothing used
    ],
)
def test_what_says_nothing_is_not(given):
    assert bound_slack.hints(given) == []
