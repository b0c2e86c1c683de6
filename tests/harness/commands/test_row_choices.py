"""What is drawn for a row is what it names, and nothing else."""

import dataclasses

from harness.commands import row_choices
from moe.experts import EXPERTS
from moe.layers import LAYERS
from moe.layout import Layout
from moe.spec import ANY, Needs

ROW = dataclasses.replace(
    EXPERTS.row("torch_loop"),
    needs=Needs(
        dtypes=frozenset({"fp16"}),
        formats=frozenset({("fp8_block", "fp8_group")}),
        activation_functions=frozenset({"silu", "gelu"}),
        hidden_multiple=128,
    ),
)


def test_a_row_gets_what_it_names():
    assert row_choices.dtypes(ROW) == ["fp16"]
    assert row_choices.quants(ROW) == ["fp8_block"]
    assert row_choices.activations(ROW) == ["silu", "silu", "gelu"]
    sizes = row_choices.hidden_sizes(ROW)
    assert sizes
    assert all(k % 128 == 0 for k in sizes)


def test_layouts_of_large_worlds_are_as_likely_as_of_one_rank():
    layouts = row_choices.layouts_of(4, ROW)
    counts = {world: sum(x.world_size == world for x in layouts) for world in (1, 2, 3, 4)}
    assert max(counts.values()) < 2 * min(counts.values())
    assert max(x.world_size for x in layouts) == 4
    assert any(x.pcp_size > 1 for x in layouts)
    assert all(x.moe_tp_size == 1 for x in layouts)


def test_a_row_that_takes_split_experts_gets_them():
    splitting = [
        x for x in row_choices.layouts_of(8, EXPERTS.row("torch_loop")) if x.size("ep") > 1
    ]
    assert {x.moe_tp_size for x in splitting} == {1, 2, 4}


def test_a_whole_layer_gets_layouts_that_it_takes_and_no_all2all():
    row = LAYERS.row("transformers_olmoe")
    assert not row_choices.takes(row, "dp")
    assert all(x.dp_size == 1 for x in row_choices.layouts_of(4, row))
    assert row_choices.all2alls(Layout(), row) == ["allgather_reducescatter"]
    assert "local" not in row_choices.all2alls(Layout(dp_size=2), ROW)


def test_a_whole_layer_gets_a_router_that_it_has():
    has = dataclasses.replace
    plain = LAYERS.row("torchtitan_moe")
    assert row_choices.routers(has(plain, routers=frozenset({"sigmoid", "softmax"}))) == [
        "softmax",
        "sigmoid",
    ]
    other = has(plain, routers=frozenset({"sigmoid", "topk_softmax"}))
    assert row_choices.routers(other) == ["sigmoid", "topk_softmax"]
    assert row_choices.routers(has(plain, routers=ANY))[0] == "softmax"
    assert row_choices.routers(EXPERTS.row("torch_loop"))[0] == "softmax"
