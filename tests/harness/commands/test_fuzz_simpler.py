"""Simpler cases: one field at a time, smaller worlds last, and exact ones stay exact."""

from __future__ import annotations

import dataclasses

from harness.commands.fuzz_simpler import simpler
from harness.commands.fuzz_space import space_for
from harness.matrix.case import MoETestConfig
from harness.matrix.exactness import is_bitwise
from harness.plan import machine

SPACE = space_for(dataclasses.replace(machine.planned_for("cpu"), planned=False))


def test_an_exact_case_is_made_simpler_by_what_keeps_it_so():
    exact = MoETestConfig(
        experts="torch_loop",
        m=4,
        n=256,
        k=256,
        num_experts=8,
        top_k=4,
        shared_experts=1,
        exact=True,
    )
    found = list(simpler(SPACE, exact))
    assert found[0] == exact.replace(exact=False)
    assert {case.top_k for case in found} == {1, 2, 4}
    assert all(is_bitwise(case) for case in found[1:])


def test_a_layout_is_made_simpler_by_smaller_worlds():
    case = MoETestConfig(
        experts="torch_loop", m=1, n=72, k=64, num_experts=3, top_k=3, dp_size=3, use_ep=True
    )
    layouts = [other.layout for other in simpler(SPACE, case) if other.n == case.n]
    smaller = {layout.world_size for layout in layouts if layout != case.layout}
    assert smaller == {1, 2}
    assert not [other for other in simpler(SPACE, case) if other.world_size > 3]


def test_what_is_fixed_is_not_made_simpler():
    space = dataclasses.replace(SPACE, fixed={"top_k": 2, "use_ep": True})
    case = MoETestConfig(
        experts="torch_loop", m=2, n=64, k=64, num_experts=4, top_k=2, dp_size=2, use_ep=True
    )
    cases = list(simpler(space, case))
    assert cases
    assert {(c.top_k, c.use_ep) for c in cases} == {(2, True)}
