"""The first collective that differs is told: after a call, and while ranks wait for each other."""

from __future__ import annotations

import pytest

from harness.engine.collective_difference import first_difference, hang_text
from harness.engine.collective_records import Entered, Entry, Parts, Stage, Traced
from harness.record.result import Verdict
from tests.harness.engine import blocked_ranks
from tests.harness.engine.engine_tools import events_of, plan, results

WORLD = {"0": (0, 1, 2), "1": (0, 2)}


def log(*entries: tuple[str, Parts]) -> Entered:
    return Entered(entries=[Entry(*e) for e in entries], members={g: WORLD[g] for g, _ in entries})


def reduced(count: int = 8, dtype: str = "bfloat16", detail: str = "SUM") -> Parts:
    return Parts("all_reduce", detail, dtype, count, count)


def exchanged(sent, received) -> Parts:
    return Parts("all_to_all", "", "uint8", sent, received)


def test_a_rank_that_enters_nothing_is_missed_by_its_group_only():
    both = log(("0", reduced()), ("1", reduced()))
    without = Entered(entries=[Entry("0", reduced())], members={"0": WORLD["0"]})
    assert first_difference([both, without, both]) is None  # rank 1 is not in group 1
    text = first_difference([both, without, without])
    assert "the group of ranks 0, 2: rank 0 entered all_reduce (SUM) of 8 bfloat16; rank 2" in text


@pytest.mark.parametrize("other", [reduced(dtype="float16"), reduced(detail="MAX")])
def test_dtypes_and_reductions_must_be_equal(other):
    same, odd = log(("0", reduced())), log(("0", other))
    assert first_difference([same] * 3) is None
    assert "rank 0, 2 entered " in first_difference([same, odd, same])


def test_sizes_agree_pairwise():
    sides = [((1, 2, 3), (1, 4, 7)), ((4, 5, 6), (2, 5, 8)), ((7, 8, 9), (3, 6, 9))]
    logs = [log(("0", exchanged(*pair))) for pair in sides]
    assert first_difference(logs) is None
    logs[1] = log(("0", exchanged((4, 5, 6), (2, 5, 9))))
    text = first_difference(logs)
    assert "all_to_all: rank 2 sends 8 elements to rank 1, which expects 9" in text
    sizes = [log(("0", reduced(n))) for n in (8, 8, 4)]
    assert "rank 0 sends 8 elements to rank 2, which expects 4" in first_difference(sizes)


def test_another_group_of_the_same_ranks_is_another_group():
    logs = [log(("1", reduced())), Entered(), Entered(entries=[Entry("2", reduced())])]
    logs[2].members["2"] = WORLD["1"]
    assert "rank 2 entered nothing more" in first_difference(logs)


def traced(stage: Stage, *groups: str, call: int = 2) -> Traced:
    """What is left of a rank of three that entered an all_reduce in each of these groups."""
    entered = log(*((group, reduced()) for group in groups))
    entered.words = {"0": "gather", "1": "ep"}
    return Traced(call=call, entered=entered, stage=stage)


def hung(*traces: Traced) -> str:
    return hang_text(dict(enumerate(traces)))


def test_who_waits_for_whom_is_told_with_what_became_of_those_who_are_missed():
    waiting = traced(Stage.INSIDE, "0", "0")
    where = "all_reduce (SUM) of 8 bfloat16, collective 2 of the group gather of ranks 0-2, where "
    for stage, words in [
        (Stage.OVER, "ended its call without"),
        (Stage.INSIDE, "has not entered"),
        (Stage.RAISED, "raised an error before"),
    ]:
        text = hung(waiting, traced(stage, "0"), waiting)
        assert text == f"call 2: rank 1 {words} {where}ranks 0, 2 wait"
    earlier = traced(Stage.OVER, "0", "0", call=1)  # it agreed with the others' first call
    text = hung(earlier, earlier, traced(Stage.INSIDE, "0"))
    assert text.startswith("call 2: ranks 0-1 had not begun the call with all_reduce")
    assert text.endswith("where rank 2 waits")


def test_of_two_groups_the_one_is_told_in_which_a_rank_is_missed_that_waits_nowhere():
    """Rank 2 misses the collective of rank 0, but only because it waits for rank 1 elsewhere."""
    stuck = [traced(Stage.INSIDE, *groups) for groups in (("1",), (), ("0",))]
    text = hung(*stuck)
    assert "group gather of ranks 0-2, where rank 2 waits" in text
    assert "group ep" not in text


def test_a_circle_of_groups_is_told_as_a_whole_and_ranks_in_step_give_no_text():
    both = (("0", "1"), ("1", "0"))
    circle = [Traced(call=1, entered=log((g, reduced()))) for g in "01"]
    for number, trace in enumerate(circle):
        trace.entered.members.update(dict.fromkeys(both[number], (0, 1)))
    text = hung(*circle)
    assert "where rank 0 waits" in text
    assert "where rank 1 waits" in text
    same = traced(Stage.INSIDE, "0")
    assert hung(same, same, same) == ""
    assert hang_text({}) == hang_text({1: same}) == ""


def test_ranks_that_block_each_other_are_told_with_the_collective(tmp_path):
    """In real gangs: one leaves it out, is late, raises, enters another one, or another size."""
    cases = {fault: blocked_ranks.case(fault) for fault in blocked_ranks.FAULTS}
    events = events_of(plan(*cases.values(), limit=3), tmp_path, executor=blocked_ranks.EXECUTOR)
    of = {fault: results(events)[case.id] for fault, case in cases.items()}
    where = "collective 5 of the group gather of ranks 0-2"
    waited = f"reduce_scatter (SUM) of 512 bfloat16, {where}, where ranks 0, 2 wait"
    for fault, words in [
        (blocked_ranks.left_out, "ended its call without"),
        (blocked_ranks.late, "has not entered"),
    ]:
        assert of[fault].verdict is Verdict.HUNG
        assert of[fault].messages[0] == f"collectives differ: call 1: rank 1 {words} {waited}"
    raised = of[blocked_ranks.raising]
    assert raised.verdict is Verdict.ERROR
    assert "ValueError: the fault of rank 1" in raised.messages[0]
    assert raised.messages[1].endswith(f"rank 1 raised an error before {waited}")
    for fault, words in [
        (blocked_ranks.other_operation, "rank 1 entered all_gather of 1536 bfloat16"),
        (blocked_ranks.other_size, "reduce_scatter: rank 0 sends 512 elements to rank 1, which "),
    ]:
        assert of[fault].verdict in (Verdict.HUNG, Verdict.ERROR, Verdict.CRASHED)  # as gloo ends
        (text,) = [m for m in of[fault].messages if m.startswith("collectives differ: ")]
        assert f"{where}: " in text
        assert words in text
