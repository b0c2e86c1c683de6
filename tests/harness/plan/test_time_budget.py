"""A time budget: what is chosen first, what it costs, and runs with one from the command line."""

import dataclasses
import itertools
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import cli
from harness.errors import NothingSelected, UsageError
from harness.plan import parts, time_budget
from harness.plan.durations import Durations
from harness.plan.machine import planned_for
from harness.plan.plan import Job, make_plan
from harness.plan.time_budget import FILL, seconds, within
from harness.record.result import Verdict
from harness.record.run_folder import RunFolder
from tests.harness.console import last_line, the_folder
from tests.harness.fake_engine import BASE
from tests.harness.plan.points import CPU, case

START = 3.0


def durations_of(cases, each=1.0, **changes):
    recorded = {c.id: each for c in cases}
    starts = dict.fromkeys((1, 2, 4), START)
    return dataclasses.replace(Durations(cases=recorded, starts=starts), **changes)


def chosen(cases, durations, budget, slots=1):
    result = within(make_plan(cases, CPU), budget, durations, slots)
    return {c.id for c in result.plan.cases}, result


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("5m", 300), ("1.5h", 5400)])
def test_a_budget_is_a_time(text, expected):
    assert seconds(text, "--x") == expected


@pytest.mark.parametrize("text", ["5", "0s", "m", "-1m", "5 m", "5d", ""])
def test_a_budget_that_is_none_is_refused_by_name(text):
    with pytest.raises(UsageError, match=r"--x '.*': give a time such as 90s, 5m or 2h"):
        seconds(text, "--x")


def test_what_failed_comes_first_then_what_is_new_then_the_rest():
    old = [case(seed=seed) for seed in range(6)]
    new = case(quant="fp8_block")
    durations = durations_of(old, failed=frozenset({old[5].id}))
    ids, result = chosen([*old, new], durations, (START + 1.1) / FILL)
    assert ids == {old[5].id}
    assert result.urgent == (2, 1)
    ids, result = chosen([*old, new], durations, (START + 1.1 + durations.of(new)) / FILL)
    assert ids == {old[5].id, new.id}
    assert result.urgent == (2, 2)


def test_a_changed_member_comes_before_others(monkeypatch):
    points = [case(quant=quant) for quant in ("none", "fp8_block", "int8_channel")]
    changed = frozenset({("quant", "int8_channel")})
    monkeypatch.setattr(time_budget, "changed", lambda named, files: changed & named)
    ids, result = chosen(points, durations_of(points, revision="abc"), (START + 1.1) / FILL)
    assert ids == {points[2].id}
    assert result.urgent == (1, 1)
    assert set(result.left_out) == {points[0].id, points[1].id}


def test_pairs_per_second_decide_and_a_short_case_is_worth_more():
    sizes = itertools.product((8, 16, 32), ("none", "fp8_block", "int8_channel"))
    points = [case(m=m, quant=quant) for m, quant in sizes]
    twice = [p.replace(seed=seed) for p in points for seed in (0, 1)]
    ids, result = chosen(twice, durations_of(twice), (START + 9.1) / FILL)
    assert result.pairs == (9, 9)  # each pair once, and no case twice with another seed
    assert len(ids) == 9
    slow = durations_of(points[:1], each=5.0)
    mixed = dataclasses.replace(slow, cases={**durations_of(points).cases, **slow.cases})
    ids, _ = chosen(points, mixed, (START + 8.1) / FILL)
    assert ids == {p.id for p in points[1:]}


def test_the_first_case_of_a_world_size_pays_the_start_of_its_ranks():
    points = [case(m=8), case(m=16), case(m=8, tp_size=2), case(m=16, tp_size=2)]
    ids, result = chosen(points, durations_of(points), (START + 2.1) / FILL)
    assert len({p.world_size for p in points if p.id in ids}) == 1
    assert result.seconds == pytest.approx(START + 2)
    everything, result = chosen(points, durations_of(points), 1000)
    assert len(everything) == 4
    assert result.seconds == pytest.approx(2 * START + 4)
    assert (result.left_out, result.left_seconds) == ((), 0)


@pytest.mark.parametrize(
    ("world", "devices", "slots", "memory", "expected"),
    [
        (1, 0, 2, 0.0, 0.5),  # a CPU with two cores
        (8, 0, 2, 0.0, 1.0),
        (1, 2, 4, 0.0, 1 / 8),  # one of four places on one of two GPUs
        (2, 2, 4, 0.0, 1 / 4),
        (8, 2, 4, 0.0, 1.0),
        (1, 2, 4, 0.6, 3 / 8),  # its memory takes three places
    ],
)
def test_gangs_side_by_side_share_the_time(world, devices, slots, memory, expected):
    machine = planned_for("cuda_sm90" if devices else "cpu", devices or 2)
    plan = dataclasses.replace(make_plan([case()], CPU), machine=machine)
    job = Job(world_size=world, device="x", transport="x", cases=(), memory_share=memory)
    assert time_budget._share(job, plan, slots) == pytest.approx(expected)


def test_a_budget_in_which_nothing_fits_says_what_would():
    with pytest.raises(NothingSelected, match=r"fits into 80% of 2 s: .* about 4\.0 s"):
        chosen([case()], durations_of([case()]), 2)


def test_five_thousand_cases_are_chosen_in_seconds():
    sizes = itertools.product(range(1, 26), (64, 128), (64, 128), (1, 2), range(25))
    points = [case(m=m, n=n, k=k, tp_size=tp, seed=s) for m, n, k, tp, s in sizes]
    plan = make_plan(points, CPU)
    began = time.process_time()  # not the clock: other processes may be busy
    result = within(plan, 1000.0, durations_of(points), 2)
    assert time.process_time() - began < 10
    assert len(points) == 5000
    assert result.pairs[0] == result.pairs[1]
    assert len(result.plan.cases) + len(result.left_out) == len(plan.cases)


# From the command line. Cases of the fake engine take .5 s, and the start of its gangs .1 s.

RUN = ["run", "--suite", "smoke", "--durations-from", "before"]


@pytest.fixture
def recorded(engine, capsys):
    """An earlier run, in which one case failed."""
    engine.verdicts[f"{BASE}-tp:2-seed:1"] = Verdict.FAILED
    cli.main(["run", "--suite", "smoke", "--out", "before"])
    engine.verdicts.clear()
    capsys.readouterr()
    return engine


def test_a_run_with_a_budget_is_green_and_records_what_it_left_out(recorded, capsys):
    assert cli.main([*RUN, "--time-budget", "2s"]) == 0
    out = capsys.readouterr().out
    assert "time budget: chose " in out
    assert "chosen: 1 of 1 case(s) that failed or whose members are new or changed" in out
    (plan, options) = recorded.calls[-1]
    ids = {c.id for c in plan.cases}
    assert f"{BASE}-tp:2-seed:1" in ids
    assert 0 < len(ids) < 8
    info = the_folder().info
    assert set(info.cases) == ids
    assert len(info.left_out) == 8 - len(ids)
    assert not ids & set(info.left_out)
    assert info.options.time_budget == 2.0
    assert f" left_out={8 - len(ids)} seconds=" in out.splitlines()[-1]
    assert 0 < options.until - time.monotonic() <= 2.0
    assert cli.main(["report", str(the_folder().path)]) == 0
    shown = capsys.readouterr().out
    assert "left out by the time budget" in shown
    assert f" left_out={8 - len(ids)} seconds=" in shown.splitlines()[-1]
    assert cli.main(["diff", "before", str(the_folder().path)]) == 0  # nobody asked for them
    assert "no_longer_run=0" in last_line(capsys)


def test_chosen_cases_that_do_not_run_in_time_are_incomplete_and_can_be_resumed(recorded, capsys):
    real = recorded._events

    def slow(plan):
        events = iter(real(plan))
        yield from itertools.islice(events, 3)
        time.sleep(max(0.0, recorded.calls[-1][1].until - time.monotonic()))

    recorded._events = slow
    assert cli.main([*RUN, "--time-budget", "1.5s", "--out", "late"]) == 2
    out = capsys.readouterr().out
    assert "did not run: the time budget is over; give it more time" in out
    assert "to resume: python -m harness run --resume late" in out
    recorded._events = real
    left = the_left_out("late")
    assert cli.main(["run", "--resume", "late", "--suite", "smoke"]) == 3
    assert "is a part of its suite: leave out --suite" in capsys.readouterr().err
    assert cli.main(["run", "--resume", "late", "--time-budget", "5m"]) == 3
    assert cli.main(["run", "--resume", "late"]) == 0
    assert f" left_out={len(left)} " in last_line(capsys)
    assert the_left_out("late") == left


def the_left_out(name):
    return RunFolder.open(Path(name)).info.left_out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--time-budget", "soon"], 3, "--time-budget 'soon': give a time such as 90s, 5m or 2h"),
        (["--time-budget", "1m", "--shard", "1/2"], 3, "--time-budget and --shard exclude"),
        (["--time-budget", "0.1s"], 4, "no case fits into 80% of 0.1 s"),
    ],
)
def test_bad_budgets_are_one_line_and_make_no_folder(
    recorded, tmp_path, capsys, arguments, code, message
):
    assert cli.main([*RUN, *arguments, "--out", "new"]) == code
    assert message in capsys.readouterr().err
    assert not Path("new").exists()


def test_more_ranks_at_a_time_fit_more_cases(recorded, capsys):
    for slots, out in (("1", "one"), ("8", "eight")):
        cli.main([*RUN, "--time-budget", "2s", "--slots", slots, "--out", out])
    assert len(the_left_out("eight")) < len(the_left_out("one"))


def test_without_recorded_times_more_ranks_than_cores_fit_no_more_cases():
    """An estimate is of a rank with a core for itself; recorded times are of ranks that share."""
    cases = [case(seed=seed) for seed in range(400)]
    plan = dataclasses.replace(make_plan(cases, CPU), machine=planned_for("cpu"))  # two cores

    def left_out(durations, slots):
        args = SimpleNamespace(shard=None, time_budget="10s", slots=slots)
        return len(parts._chosen(args, plan, durations).left_out)

    assert left_out(Durations(), 8) == left_out(Durations(), 2) > 0
    recorded = durations_of(cases, each=0.2)
    assert left_out(recorded, 8) < left_out(recorded, 2)


def test_list_shows_what_a_budget_would_choose(recorded, capsys):
    assert cli.main(["list", "--suite", "smoke", "--durations-from", "before"]) == 0
    everything = capsys.readouterr().out
    arguments = ["--durations-from", "before", "--time-budget", "2s"]
    assert cli.main(["list", "--suite", "smoke", *arguments]) == 0
    part = capsys.readouterr().out
    assert "time budget: chose " in part
    assert len(part.split("\n\n")[0].splitlines()) < len(everything.split("\n\n")[0].splitlines())
