"""A late rank changes no bit of a right layer, and shows what is read before it has arrived."""

from __future__ import annotations

import pytest

from harness import parallel_launch
from harness.record.result import Verdict
from tests.harness.checks.step_ranks import run_with
from tests.harness.execute_ranks import case, run_all

EP = {"m": 8, "dp_size": 2, "use_ep": True}
SKEWED = [case(**EP, skew=skew).id for skew in ("calls", "collectives")]


def test_right_layers_pass_with_any_rank_late():
    for results in parallel_launch(2, run_all, SKEWED, timeout=60):
        assert [(r.verdict, r.messages) for r in results] == [(Verdict.PASSED, ())] * 2


@pytest.mark.parametrize("text", SKEWED)
def test_what_is_read_too_early_is_wrong_with_a_late_rank(text):
    """On a busy machine the reader may be later still: then in one of several runs."""
    verdicts = set()
    for _ in range(5):
        found = parallel_launch(2, run_with, "unread", text, timeout=60)
        verdicts |= {result.verdict for result in found}
        if Verdict.FAILED in verdicts:
            break
    assert Verdict.FAILED in verdicts
