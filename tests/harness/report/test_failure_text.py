"""The message: the answer first, ranks merged, within a terminal, and for every kind of end."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from harness.record.result import CaseResult, Finding, Topic, Verdict
from harness.report import failure_text
from harness.report.failure_text import headline, lines
from moe.numerics import Numerics, declaration
from tests.harness.report.failed_results import CASE, CAUSE, REPEAT, call, result

COUNT = f"python -m harness run --case {CASE} --repeat 50"


def test_one_rank_s_message_in_full():
    said = lines(result({1: [call()]}, log="a.log"))
    assert said == [
        "wrong: rank 1 only, of 4, first call only, of 2",
        "pattern: all wrong rows: experts 4-7",
        "likely cause: the output is doubled (leaves 0.4 % of the error)",
        "rank 1, first call: 8 of 32 rows (3, 7-13), 128 of 256 columns (128-255), "
        "12.3x its tolerance",
        "  first wrong element [3, 128] is nan, expected 0.25",
        "  worst wrong element [9, 200] is 3.5, expected -0.5, off by 7.12x its row's rms",
        "  values -3..3.5, expected -2..2.5; NaN 2, Inf 1",
        "  relative rms error 0.5, 1-cosine 0.125; all zero: rows 7; all NaN (never written, "
        "or computed from NaN): rows 3,",
        "      8",
        "  wrong rows by expert: 4: 5 of 5, 5: 3 of 3, 1: 1 of 6",
        "log: a.log",
        REPEAT,
    ]


def test_numerics_that_were_assumed_are_told_once_with_the_nearest():
    row = declaration(Numerics.stated(gemm1="model", activation_error=0.001))
    first, second = call(0, output=True), call(1, output=True)
    wrong = dataclasses.replace(result({0: [first, second], 1: [first]}), assumed=row)
    said = [line for line in lines(wrong) if line.startswith("numerics:")]
    head = "numerics: the row states none, and no customary ones make this right; nearest:"
    assert said == [f'{head} gemm1="model",']
    (following,) = (line for line in lines(wrong) if 'weight_on="output"' in line)
    assert following.strip() == 'activated_gate="f32", activation="f32", weight_on="output"'
    assert not any(line.startswith("numerics:") for line in lines(result({1: [call()]})))
    overrun = dataclasses.replace(result({0: [call(0, stages=())]}), assumed=row)
    assert not any(line.startswith("numerics:") for line in lines(overrun))


@pytest.mark.parametrize(
    ("ranks", "text"),
    [
        ([0, 1, 2, 3], "all 4 ranks, both calls"),
        ([2, 3], "tokens of DP rank 1 only (ranks 2-3 of 4), both calls"),
        ([1, 3], "TP rank 1 only (ranks 1, 3 of 4), both calls"),
        ([0, 3], "ranks 0, 3 only, of 4, both calls"),
        ([3], "rank 3 only, of 4, both calls"),
    ],
)
def test_where_names_the_layout_s_part(ranks, text):
    found = lines(result({rank: [call(0), call(1)] for rank in ranks}))
    assert found[0] == f"wrong: {text}"


def test_calls_are_named():
    assert "second call only, of 2" in lines(result({0: [call(1)]}))[0]
    assert "all 5 calls" in lines(result({0: [call(i) for i in range(5)]}, of=5))[0]
    assert "2 of 5 calls" in lines(result({0: [call(0), call(4)]}, of=5))[0]
    assert "call 5 only" in lines(result({0: [call(4)]}, of=5))[0]


@pytest.mark.parametrize(
    ("failed", "of", "text"),
    [
        ([1], 2, "seen in the second call of 2"),
        ([0], 17, "seen in the first call of 17"),
        ([0, 1], 17, "seen in 2 calls of 17"),
    ],
)
def test_only_is_said_of_a_call_where_the_others_were_looked_at(failed, of, text):
    one = result({0: [call(number) for number in failed]}, of=of)
    diagnoses = tuple(dataclasses.replace(d, every_call=False) for d in one.diagnoses)
    head = lines(dataclasses.replace(one, diagnoses=diagnoses))[0]
    assert head.endswith(f", {text}")


def test_what_all_ranks_say_is_said_once_and_what_some_say_with_their_ranks():
    other = [{"name": "column_range", "text": "columns >= 128 only", "data": {}}]
    ranks = {rank: [call(0), call(1)] for rank in range(4)}
    ranks[2][1]["patterns"] += other
    ranks[3][0]["patterns"] += other
    ranks[3][1]["patterns"] += other
    said = lines(result(ranks))
    assert said[1] == "pattern: all wrong rows: experts 4-7"
    assert said[2] == "pattern (ranks 2-3): columns >= 128 only"
    assert sum("likely cause" in line for line in said) == 1
    only = {rank: [call(0), call(1)] for rank in range(2)}
    only[1][0]["patterns"] += other
    assert "pattern (rank 1, first call): columns >= 128 only" in lines(result(only))


def test_ranks_with_equal_numbers_are_told_once_each_picture_named():
    ranks = {rank: [call(0, picture=f"p{rank}.png")] for rank in range(3)}
    ranks[2][0]["rel_rms"] = 0.75
    said = lines(result(ranks), folder=Path("runs/x"))
    heads = [line for line in said if "call: 8 of" in line]
    assert [head.split(",")[0] for head in heads] == ["rank 2", "ranks 0-1"]
    pictures = [line for line in said if line.strip().startswith("picture: ")]
    assert [line.split("/")[-1] for line in pictures] == ["p2.png", "p0.png", "p1.png"]
    assert said[-2] == f"picture of experts and ranks: runs/x/logs/{CASE}.experts.png"
    failed = call(0, picture_fault="OSError: full")
    assert "  no picture: OSError: full" in lines(result({0: [failed]}))


def test_the_first_wrong_stage_and_faults_of_the_diagnosis():
    stages = [
        {"stage": stage, "text": text, "bad": 3, "of": 9, "where": {}}
        for stage, text in (("gemm1", "3 of 9 off"), ("gemm2", "all off"))
    ]
    ranks = {0: [call(stages=stages)], 1: [call(stages=stages[:1]), call(1)]}
    said = lines(result(ranks))
    (line,) = (line for line in said if "stage" in line)
    assert line == "first wrong stage (first call): gemm1: on rank 0, first call: 3 of 9 off"
    fault = {"call": 0, "fault": "IndexError: oh"}
    said = lines(result({0: [fault]}))
    assert "the diagnosis failed, but the verdict stands: IndexError: oh" in said
    said = lines(result({0: [call(faults=["bad: IndexError: oh"])]}))
    assert "not examined: bad: IndexError: oh" in said


def test_messages_that_the_diagnosis_says_better_are_left_out():
    findings = [
        Finding(check="routing", text="routing: token 3 is lost"),
        Finding(check="output", text="8 of 32 rows wrong", topic=Topic.ROWS),
        Finding(check="output", text="values 1..2", topic=Topic.VALUES),
    ]
    told = call(covers=[Topic.ROWS, Topic.VALUES])
    said = "\n".join(lines(result({0: [told]}, findings=findings)))
    assert "rank 0: routing: token 3 is lost" in said
    assert "8 of 32 rows wrong" not in said
    told = call(covers=[Topic.VALUES])
    said = "\n".join(lines(result({0: [told]}, findings=findings)))
    assert "8 of 32 rows wrong" in said
    assert "values 1..2" not in said


def test_a_member_that_was_not_asked_for_stands_above_causes():
    text = "experts: asked for triton (TritonExperts), and TorchLoopExperts ran"
    other = Finding(check="members", text=text, leads=True)
    wrong = Finding(check="routing", text="routing: token 3 is lost")
    for causes in ([dict(CAUSE)], []):
        shown = result({0: [call(causes=causes)]}, findings=[wrong, other])
        assert lines(shown)[0] == f"rank 0: {text}"
        assert sum(text in line for line in lines(shown)) == 1
        assert headline(shown) == f"rank 0: {text}"
        assert any("cause" in line for line in lines(shown)[1:])


def test_a_failure_without_wrong_rows_shows_its_message_and_no_empty_numbers():
    quiet = call(patterns=[], causes=[], rows={"wrong": 0, "of": 32, "numbers": ""})
    del quiet["tried"]
    said = lines(result({0: [quiet]}, messages=["rank 0: routing: token 3"]))
    assert said == [
        "wrong: rank 0 only, of 4, first call only, of 2",
        "rank 0: routing: token 3",
        REPEAT,
    ]


def many() -> CaseResult:
    ranks = {
        rank: [
            call(
                number,
                rel_rms=rank + number / 10,
                patterns=[{"name": "x", "text": f"pattern {rank} {number} " * 9, "data": {}}],
            )
            for number in range(2)
        ]
        for rank in range(4)
    }
    messages = [f"rank {rank}: routing: {'word ' * 60}" for rank in range(8)]
    return result(ranks, messages=messages, log="a.log")


@pytest.mark.parametrize("most", [10, 30, 60])
def test_it_fits_a_terminal(most):
    said = lines(many(), most)
    assert len(said) == most
    assert max(map(len, said[:-1])) <= failure_text.WIDTH
    assert said[-2:] == ["log: a.log", REPEAT]
    assert said[0].startswith("wrong: all 4 ranks")
    (more,) = (line for line in said if line.startswith("…"))
    whole = lines(many(), None)
    assert more == f"… {len(whole) - most + 1} more lines: -v, or the run's events.jsonl, has all"
    assert len(whole) > 60
    assert max(map(len, whole[:-1])) <= failure_text.WIDTH
    assert lines(many()) == lines(many(), 60)


def test_long_paths_are_not_broken():
    folder = Path("runs") / ("very-long-" * 15)
    said = lines(result({0: [call(picture="p.png")]}), folder=folder)
    assert f"  picture: {folder / 'logs' / 'p.png'}" in said


def test_an_error_keeps_the_end_of_its_traceback():
    trace = "\n".join(["Traceback", *(f"  File {i}" for i in range(100)), "RuntimeError: boom"])
    error = CaseResult(case_id=CASE, verdict=Verdict.ERROR, messages=(f"rank 0,1: {trace}",))
    said = lines(error)
    assert len(said) == 60
    assert said[0] == "rank 0,1: Traceback"
    assert said[-2:] == ["RuntimeError: boom", REPEAT]
    assert headline(error) == "rank 0,1: Traceback"


def test_what_a_rank_raised_stands_above_the_stacks_of_those_that_wait():
    frames = (f"  File {i}" for i in range(100))
    trace = "\n".join([failure_text.TRACEBACK, *frames, "RuntimeError: boom"])
    waits = "\n".join(["rank 0: still running after 2.2 s", *(f"  File {i}" for i in range(30))])
    stuck = CaseResult(
        case_id=CASE, verdict=Verdict.ERROR, reason="stuck", messages=(f"rank 1: {trace}", waits)
    )
    assert lines(stuck)[:2] == ["reason: stuck", "rank 1: RuntimeError: boom"]


ENDS = [
    (Verdict.CRASHED, "crashed", ("rank 1: ended by SIGSEGV",), "rank 1: ended by SIGSEGV"),
    (Verdict.HUNG, "hung", ("rank 0: still running after 3 s",), "rank 0: still running after 3 s"),
    (Verdict.VACUOUS, None, ("zeros would pass: more tokens",), "zeros would pass: more tokens"),
    (Verdict.FLAKY, None, ("attempt 1 was failed: x",), "attempt 1 was failed: x"),
    (Verdict.INFRA, "lost", (), "lost"),
]


@pytest.mark.parametrize(("verdict", "reason", "messages", "head"), ENDS)
def test_every_other_end_has_its_message_and_log(verdict, reason, messages, head):
    ended = CaseResult(case_id=CASE, verdict=verdict, reason=reason, messages=messages, log="a.log")
    first = [f"reason: {reason}"] if reason else []
    count = [f"how often: {COUNT}"] if verdict is Verdict.FLAKY else []
    assert lines(ended) == [*first, *messages, "log: a.log", *count, REPEAT]
    assert "log: f/logs/a.log" in lines(ended, folder=Path("f"))
    assert headline(ended) == head


def test_what_comes_and_goes_has_the_command_that_counts_it():
    text = "rank 0: not deterministic: 1 of 4 elements differ when the same call is repeated"
    failed = CaseResult(case_id=CASE, verdict=Verdict.FAILED, messages=(text,))
    flaky = CaseResult(case_id=CASE, verdict=Verdict.FLAKY, messages=("rank 0: wrong",))
    for sporadic in (failed, flaky):
        assert lines(sporadic)[-2:] == [
            f"how often: {COUNT}",
            REPEAT,
        ]
    assert not [t for t in lines(result({0: [call()]})) if t.startswith("how often")]


def test_a_passed_case_needs_no_words():
    assert lines(CaseResult(case_id=CASE, verdict=Verdict.PASSED)) == []


def test_the_headline_is_the_cause_else_the_pattern():
    assert headline(result({0: [call()]})).startswith("likely cause: the output is doubled")
    assert headline(result({0: [call(causes=[])]})) == "pattern: all wrong rows: experts 4-7"


def test_the_headline_of_a_traceback_is_the_exception():
    """Whose text may have lines of its own, and which may follow on another one."""
    import traceback

    try:
        try:
            raise KeyError("first")
        except KeyError:
            raise RuntimeError("out of luck\nand of memory") from None
    except RuntimeError:
        text = traceback.format_exc()
    error = CaseResult(case_id="x", verdict=Verdict.ERROR, messages=(f"rank 1: {text}",))
    assert headline(error) == "rank 1: RuntimeError: out of luck"
    chained = f"rank 1: {text}\nDuring handling of the above exception, another one\n\n{text}"
    again = CaseResult(case_id="x", verdict=Verdict.ERROR, messages=(chained,))
    assert headline(again) == "rank 1: RuntimeError: out of luck"


def test_a_diagnosis_goes_through_an_event_unchanged():
    from harness.record.events import CaseEnded, from_line, to_line

    event = CaseEnded(time=0.0, gang=1, result=result({0: [call()]}))
    again = from_line(to_line(event))
    assert again == event
    assert lines(again.result) == lines(event.result)


def test_an_id_that_is_none_is_no_fault():
    odd = CaseResult.from_json({**result({1: [call()]}).to_json(), "case_id": "no such id"})
    assert lines(odd)[0].startswith("wrong: rank 1 only, of 4")


@pytest.mark.parametrize("used", [1.7976931348623157e308, "inf", "nan"])
def test_an_excess_that_is_no_number_is_left_out(used):
    """It was "1.8e+308x its tolerance" where nothing is allowed."""
    said = "\n".join(lines(result({0: [call(metrics={"bound_used": used})]})))
    assert "8 of 32 rows" in said
    assert "x its tolerance" not in said
