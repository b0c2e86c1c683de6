"""Shrinking: it ends at the smallest case that still fails, or in time with the smallest so far."""

from __future__ import annotations

import dataclasses
import time

from harness.commands import strategies
from harness.commands.fuzz_shrink import batch, shrink
from harness.commands.fuzz_space import space_for
from harness.plan import machine

CPU = dataclasses.replace(machine.planned_for("cpu"), planned=False)
SPACE = space_for(CPU)


def _wrong(case):
    return case.top_k >= 3 and case.world_size >= 2


def test_shrinking_ends_at_the_smallest_case_that_still_fails():
    failing = next(case for case in batch(SPACE, 0, 1) if _wrong(case) and case.seed)
    least = shrink(SPACE, 0, 1, failing, _wrong)
    simple = {"m": 1, "top_k": 3, "num_experts": 3, "quant": "none", "shared_experts": 0, "seed": 0}
    assert least.world_size == 2
    assert {name: getattr(least, name) for name in simple} == simple
    assert (least.n, least.k) == (strategies.SIZES[0], strategies.SIZES[0])


def test_the_case_that_is_shrunk_is_the_one_that_was_asked_for():
    """Others of its batch fail as well, earlier ones among them."""
    tried, cases = [], batch(SPACE, 0, 1)
    wanted = [case for case in cases if _wrong(case)][-1]

    def never(case):
        tried.append(case)
        return False

    assert shrink(SPACE, 0, 1, wanted, never) == wanted
    assert tried
    assert not set(cases[: cases.index(wanted)]) <= set(tried)


def test_shrinking_ends_in_time_with_the_simplest_so_far():
    failing = next(case for case in batch(SPACE, 0, 1) if _wrong(case) and case.seed)
    tried = []

    def fails(case):
        tried.append(time.monotonic())
        time.sleep(0.05)
        return _wrong(case)

    until = time.monotonic() + 1.5
    least = shrink(SPACE, 0, 1, failing, fails, until=until)
    assert tried[-1] < until
    assert _wrong(least)
    assert shrink(SPACE, 0, 1, failing, fails, until=0) == failing
