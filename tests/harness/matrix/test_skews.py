"""Ranks are late in turn only where there are several."""

from __future__ import annotations

import pytest

from harness.matrix.case import MoETestConfig
from harness.matrix.skews import SKEWS, skew_refusal
from tests.harness.execute_ranks import case


@pytest.mark.parametrize("skew", SKEWS)
def test_one_rank_is_never_late(skew):
    reason = skew_refusal(case(skew=skew))
    if skew == "none":
        assert reason is None
    else:
        assert reason.code == "skew_of_one_rank"
        assert reason.text == (
            f"skew: one rank waits for no other; use dp or tp above 1, or leave skew:{skew} out"
        )
    assert skew_refusal(case(skew=skew, tp_size=2)) is None


def test_the_axis_is_left_out_of_ids_by_default():
    late = case(skew="calls", tp_size=2)
    assert late.id.endswith("tp:2-skew:calls")
    assert MoETestConfig.from_id(late.id) == late
    assert "skew" not in case(tp_size=2).id
