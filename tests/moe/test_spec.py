"""Layers: what follows from their fields, and which of them are refused."""

import pytest

from moe.layout import Layout
from moe.spec import LayerSpec, layer_refusal


def layer_spec(**fields):
    plain = {"m": 4, "hidden": 128, "intermediate": 256, "num_experts": 8, "top_k": 2}
    return LayerSpec(**{**plain, **fields})


def test_shard_sizes_are_per_rank():
    uneven = layer_spec(intermediate=10, layout=Layout(tp_size=4))
    assert uneven.shard_sizes == (3, 3, 2, 2)
    assert layer_spec(layout=Layout(tp_size=4, use_ep=True)).shard_sizes == (256,) * 4


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"top_k": 9}, "top_k_exceeds_experts"),
        ({"layout": Layout(sequence_parallel=True, use_ep=True)}, "sp_needs_ep_and_tp"),
        ({"layout": Layout(sequence_parallel=True, tp_size=2)}, "sp_needs_ep_and_tp"),
        ({"intermediate": 3, "layout": Layout(tp_size=4)}, "empty_shard"),
    ],
)
def test_impossible_problems_are_refused_for_everybody(fields, code):
    assert layer_refusal(layer_spec(**fields)).code == code


def test_ranks_without_experts_are_no_reason_to_refuse():
    assert layer_refusal(layer_spec(num_experts=2, layout=Layout(dp_size=4, use_ep=True))) is None


def test_experts_are_listed_by_rank_in_the_order_of_their_local_ids():
    shared_out = layer_spec(num_experts=5, layout=Layout(dp_size=2, use_ep=True))
    assert shared_out.experts_by_rank == ((0, 1, 2), (3, 4))
    assert shared_out.experts_of(1) == (3, 4)
    assert layer_spec(num_experts=2, layout=Layout(tp_size=2)).experts_by_rank == ((0, 1),) * 2
