"""What a case's message says of each rank when its task did not end as it should."""

import pytest

from harness.engine.messages import Done, Failed
from harness.engine.task_outcome import Ended, Outcome, case_result
from harness.record.result import Finding, RankResult, Verdict

STACK = """\
Current thread 0x00007f (most recent call first):
  File "/stack/backend.py", line 7 in wait_for_nobody
  File "/stack/layer.py", line 3 in forward
"""


@pytest.fixture
def outcome(tmp_path):
    def outcome(ended, answers, world=4):
        logs = {rank: tmp_path / f"rank{rank}.log" for rank in range(world)}
        for log in logs.values():
            log.write_text("")
        silent = logs.keys() - answers.keys()
        return Outcome(
            task="m:8",
            ended=ended,
            seconds=3.0,
            answers=answers,
            exits={},
            last_status=dict.fromkeys(silent, ("layer", 2.5)),
            stacks=dict.fromkeys(silent, STACK),
            logs=logs,
        )

    return outcome


def done(rank, verdict, *messages):
    findings = tuple(Finding(check="output", text=text) for text in messages)
    result = RankResult(rank=rank, verdict=verdict, findings=findings)
    return Done(passed=verdict is Verdict.PASSED, result=result.to_json())


def test_a_hang_names_every_rank_s_end(outcome):
    """The one that hung with its innermost frames, those that passed, the one that failed."""
    answers = {
        0: done(0, Verdict.PASSED),
        1: done(1, Verdict.PASSED),
        2: done(2, Verdict.FAILED, "rows wrong"),
    }
    result = case_result(outcome(Ended.HUNG, answers))
    hung, *others = result.messages
    assert hung.startswith("rank 3: still running after 3.0 s (last status 'layer', 2.5 s earlier)")
    assert "in wait_for_nobody" in hung
    assert others == ["ranks 0-1: passed", "rank 2: failed", "rank 2: rows wrong"]
    assert result.verdict is Verdict.HUNG


def test_a_rank_that_raised_comes_first_where_others_waited_for_it(outcome):
    answers = {0: Failed(traceback="ValueError: no"), 1: done(1, Verdict.PASSED)}
    result = case_result(outcome(Ended.STUCK, answers, world=3))
    raised, stuck, *others = result.messages
    assert raised == "rank 0: ValueError: no"
    assert stuck.startswith("rank 2: still running")
    assert others == ["rank 0: error", "rank 1: passed"]


def test_nobody_answered(outcome):
    result = case_result(outcome(Ended.HUNG, {}, world=2))
    assert [text.partition(":")[0] for text in result.messages] == ["rank 0", "rank 1"]
