"""What `fuzz` draws: every field, feasible here, the same for the same seed."""

from __future__ import annotations

import dataclasses
from statistics import median

import pytest

from harness.commands.fuzz_shrink import batch
from harness.commands.fuzz_space import space_for
from harness.matrix.exactness import exact_refusal, is_bitwise
from harness.plan import cost, machine
from harness.plan.plan import make_plan
from moe.experts import EXPERTS
from moe.quant import QUANT
from moe.spec import ANY, MemberSpec, Needs

CPU = dataclasses.replace(machine.planned_for("cpu"), planned=False)
SPACE = space_for(CPU)
BATCHES = 4


@pytest.fixture(scope="module")
def drawn():
    return [case for number in range(BATCHES) for case in batch(SPACE, 0, number)]


def test_one_seed_draws_one_sequence(drawn):
    again = [case for number in range(BATCHES) for case in batch(SPACE, 0, number)]
    other = [case for number in range(BATCHES) for case in batch(SPACE, 1, number)]
    assert drawn == again
    assert drawn != other


def test_a_batch_repeats_no_case(drawn):
    first = batch(SPACE, 0, 0)
    assert len({case.id for case in first}) == len(first)
    assert 0.9 * SPACE.batch < len(first) <= SPACE.batch
    assert len({case.id for case in drawn}) > 0.9 * len(drawn)


def test_the_plan_refuses_nothing_that_is_drawn(drawn):
    assert make_plan(drawn, CPU).refused == ()


@pytest.mark.parametrize(
    "name",
    ["experts", "quant", "dtype", "world_size", "use_ep", "sequence_parallel", "tokens", "k"],
)
def test_every_field_takes_many_values(name, drawn):
    possible = {
        "experts": 3,
        "quant": 5,
        "dtype": 3,
        "world_size": 4,
        "use_ep": 2,
        "sequence_parallel": 2,
        "tokens": 3,
        "k": 12,
    }
    assert len({getattr(case, name) for case in drawn}) >= possible[name]


EXACT_METHODS = [row.name for row in QUANT if exact_refusal(row.scheme) is None]


@pytest.mark.parametrize("method", EXACT_METHODS)
def test_some_cases_of_every_method_are_exact(method, monkeypatch):
    """Drawn for a backend of this method's formats alone: no other row makes them rarer."""
    scheme = QUANT.row(method).scheme
    needs = Needs(dtypes=ANY, formats=frozenset({(scheme.weights, scheme.activations)}))
    row = MemberSpec(name="of_one", target="no:Class", needs=needs)
    monkeypatch.setattr(EXPERTS, "_rows", {**EXPERTS.rows, "of_one": row})
    space = space_for(CPU, "of_one")
    drawn = [case for number in range(BATCHES // 2) for case in batch(space, 0, number)]
    exact = [case for case in drawn if case.exact]
    assert method in {case.quant for case in exact}
    assert 0.01 < len(exact) / len(drawn) < 0.15
    assert all(is_bitwise(case) for case in exact)


def test_interpreted_kernels_are_kept_small(drawn):
    slow = [case for case in drawn if "triton" in EXPERTS.row(case.experts).needs.features]
    assert slow
    estimates = [cost.interpreted_seconds(case.layer_spec, CPU.cores) for case in slow]
    assert max(estimates) < cost.INTERPRETER_SECONDS / 2
    assert median(estimates) < 2.5


def test_a_machine_with_devices_is_given_larger_cases():
    space = space_for(machine.planned_for("cuda_sm90", 2))
    cases = [case for number in range(3) for case in batch(space, 0, number)]
    assert max(case.world_size for case in cases) == 8
    assert max(case.num_experts * case.n * case.k for case in cases) > SPACE.weights


RIGHT = "tests.harness.outside_layers:Right"


def test_only_what_a_layer_takes_is_drawn():
    space = dataclasses.replace(space_for(CPU, layer=RIGHT), batch=40)
    drawn = batch(space, 0, 0)
    assert len(drawn) > 20
    assert {(c.layer, c.experts, c.all2all, c.quant, c.exact) for c in drawn} == {
        (RIGHT, "own", "allgather_reducescatter", "none", False)
    }
    assert {c.dp_size for c in drawn} == {1}
    assert {1, 2} <= {c.tp_size for c in drawn}
    assert not any(c.sequence_parallel for c in drawn)
    assert {True, False} == {c.renormalize for c in drawn}
