"""Ranks that leave step fail the case, although nobody hung, and judge nothing else."""

from __future__ import annotations

import pytest

from harness import parallel_launch
from harness.record.result import Verdict
from tests.harness.checks.step_ranks import run_with
from tests.harness.execute_ranks import case


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        (
            "out_of_step",
            case(m=8, dp_size=2, use_ep=True, tokens="idle").id,
            "collectives differ: collective 1 of the group of ranks 0-1: rank 0 entered "
            "all_reduce (SUM) of 0 bfloat16; rank 1 entered nothing more; all ranks of a group",
        ),
        ("in_repeats", case(m=8, tp_size=2).id, "rank 0 entered all_reduce (SUM) of 0 bfloat16"),
    ],
)
def test_ranks_out_of_step_end_the_case_on_every_rank(name, text, words):
    for result in parallel_launch(2, run_with, name, text, timeout=60):
        assert (result.verdict, result.poisoned) == (Verdict.FAILED, True)
        (message,) = result.messages
        assert message.startswith("collectives differ: ")
        assert words in message
