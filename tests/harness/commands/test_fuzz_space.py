"""The space of a machine: its backends, its limits, and what `--set` fixes."""

from __future__ import annotations

import dataclasses

import pytest

from harness.commands.fuzz_space import fixed_values, space_for
from harness.errors import UsageError
from harness.matrix.case import MoETestConfig
from harness.plan import machine
from moe.errors import UnknownMemberError

CPU = dataclasses.replace(machine.planned_for("cpu"), planned=False)


def test_an_unknown_backend_is_refused():
    with pytest.raises(UnknownMemberError, match="nobody"):
        space_for(CPU, "nobody")


def test_fixed_values_are_read_as_in_ids():
    fixed = fixed_values(["router:sigmoid-no_renorm", "tp:2"])
    assert fixed == {"router": "sigmoid", "renormalize": False, "tp_size": 2}
    space = space_for(CPU, fixed=fixed)
    assert space.choices("router", ["softmax"]) == ("sigmoid",)
    assert space.choices("activation", ["silu"]) == ["silu"]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["rooter:sigmoid"], "--set: token 'rooter:sigmoid': no field is called 'rooter', did"),
        (["topk:0"], "--set: top_k must be at least 1, not 0"),
        (["tp:2", "tp:4"], "--set: token 'tp:4': tp_size is given twice"),
        (["layer:a.b:C"], "--set: write --layer a.b:C"),
    ],
)
def test_what_no_case_can_have_is_a_usage_error(tokens, message):
    with pytest.raises(UsageError) as error:
        fixed_values(tokens)
    assert str(error.value).startswith(message)


def test_a_fixed_name_is_one_of_its_table():
    with pytest.raises(UnknownMemberError, match="no router is called 'sigmod', did you mean"):
        fixed_values(["router:sigmod"])


def test_a_space_holds_what_is_within_its_limits():
    space = space_for(CPU)
    case = MoETestConfig(experts="torch_loop", m=4, n=64, k=64, num_experts=4, top_k=2)
    assert space.holds(case)
    assert not space.holds(case.replace(m=space.tokens + 1))
    assert not space.holds(case.replace(dp_size=8))
    assert not space.holds(case.replace(num_experts=512))
