"""A row of the table says for which layers there can be such a mistake, and computes it."""

from __future__ import annotations

import pytest

from harness.checks.stages_collectives import COUNTS
from harness.mutants import named
from harness.mutants.hypothesis import OF_DELIVERY, Hypothesis, features_of, proof, rows_of
from tests.harness.mutants.samples import apart, case, scene

TWO = {"dp_size": 2, "use_ep": True}


@pytest.mark.parametrize(
    ("need", "there", "not_there"),
    [
        ("quantized", {"quant": "fp8_tensor"}, {}),
        ("ranks", TWO, {}),
        ("shards", {"tp_size": 2}, TWO),
        ("limit", {"activation": "swiglu_clamped"}, {"activation": "silu"}),
        ("zero_experts", {"zero_experts": 2}, {}),
        ("shared_gate", {"shared_experts": 1, "shared_gate": True}, {"shared_experts": 1}),
    ],
)
def test_a_mistake_is_possible_where_the_layer_has_what_it_needs(need, there, not_there):
    row = proof("rows", "more", need, zeros="nothing was computed")
    assert row.battery
    assert row.possible(case(**there).layer_spec)
    assert not row.possible(case(**not_there).layer_spec)


def test_features_name_a_gate_of_shared_experts():
    assert "shared_gate" in features_of(case(shared_experts=1, shared_gate=True).layer_spec)
    assert "shared_gate" not in features_of(case(shared_experts=1).layer_spec)


def test_a_mistake_in_the_experts_does_not_show_first_after_them():
    inside, around = rows_of("experts", last_slot_dropped="?") + rows_of("ranks", rank_twice="?")
    for stage in (None, "dispatch", "gemm1", "combine", "finalize"):
        assert inside.may_show_in(stage)
    for stage in ("restored", "shared", "out"):
        assert not inside.may_show_in(stage)
        assert around.may_show_in(stage)
    (of_shared,) = rows_of("routing", router_scale_on_shared="?")
    assert of_shared.may_show_in("out")


@pytest.mark.parametrize(
    ("family", "shows_in"),
    [
        ("weights", ("gemm1", "gemm2")),
        ("scales", ("gemm1", "second", "gemm2")),
        ("activation", ("gemm1", "activation", "gemm2")),
        ("biases", ("gemm1", "gemm2", "combine")),
        ("ranks", ("gemm1", "gemm2", "combine", "finalize")),
        ("routing", ("gemm1", "activation", "second", "gemm2", "combine", "finalize")),
    ],
)
def test_a_mistake_does_not_show_first_in_a_stage_after_its_own(family, shows_in):
    (row,) = rows_of(family, made_up="?")
    stages = ("gemm1", "activation", "second", "gemm2", "combine", "finalize")
    assert tuple(stage for stage in stages if row.may_show_in(stage)) == shows_in


@pytest.mark.parametrize(
    ("name", "stage", "other"),
    [
        ("w2_of_next_expert", "gemm2", "gemm1"),
        ("w13_of_next_expert", "gemm1", "gemm2"),
        ("lora_second_missing", "gemm2", "gemm1"),
        ("second_scale_twice", "gemm2", "gemm1"),
        ("input_scale_twice", "gemm1", "gemm2"),
    ],
)
def test_a_mistake_of_one_product_does_not_show_first_in_the_other(name, stage, other):
    assert named(name).may_show_in(stage)
    assert not named(name).may_show_in(other)


def test_a_mistake_inside_the_experts_is_none_of_where_tokens_go():
    (inside,), (around,) = rows_of("routing", weights_ignored="?"), rows_of("ranks", rank_twice="?")
    for noun in OF_DELIVERY:
        assert not inside.may_show_in("dispatch", noun)
        assert around.may_show_in("dispatch", noun)
    assert inside.may_show_in("dispatch", "router weights")
    assert COUNTS in OF_DELIVERY


def test_a_row_computes_the_function_of_its_name_in_its_family():
    (row,) = rows_of("rows", halved="half")
    here = scene(case())
    assert apart(row.compute(here), here.answer.out / 2) == 0
    unknown = Hypothesis(name="no_such_function", family="rows", cause="?")
    with pytest.raises(AttributeError, match="no_such_function"):
        unknown.compute(here)
