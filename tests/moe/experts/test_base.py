"""What an experts backend knows of its rank before it has weights."""

import pytest
import torch

from moe.activations.gelu_tanh.member import GeluTanhMul
from moe.experts.base import Experts
from moe.layout import Layout
from moe.quant.none import NoQuant
from moe.spec import LayerSpec, Numerics
from moe.types import Activations, Dispatched, Routing


class Plain(Experts):
    def prepare_weights(self, weights):
        raise NotImplementedError

    def apply(self, x, routing):
        return x, routing


def made(rank=0, **fields):
    sizes = {"m": 2, "hidden": 8, "intermediate": 8, "num_experts": 5, "top_k": 1}
    return Plain(LayerSpec(**{**sizes, **fields}), rank, Numerics.stated(), NoQuant())


def test_its_experts_are_those_of_its_rank():
    shared_out = Layout(dp_size=2, use_ep=True)
    assert [made(rank, layout=shared_out).num_local for rank in range(2)] == [3, 2]
    assert made(layout=Layout(tp_size=2)).num_local == 5


@pytest.mark.parametrize(("name", "dtype"), [("bf16", torch.bfloat16), ("f32", torch.float32)])
def test_its_output_has_the_layer_s_dtype(name, dtype):
    assert made(dtype=name).dtype == dtype


def test_its_activation_is_the_layer_s():
    assert isinstance(made(activation="gelu_tanh").activation, GeluTanhMul)


def test_it_is_run_on_the_rows_and_routing_that_were_dispatched():
    x = Activations(codes=torch.ones(2, 8))
    routing = Routing(topk_ids=torch.zeros(2, 1).int(), topk_weights=torch.ones(2, 1))
    taken = made().run(Dispatched(x=x, routing=routing, counts=(2,)))
    assert taken[0] is x
    assert taken[1] is routing
