"""What an experts backend knows of its rank before it has weights."""

import pytest
import torch

from moe import guarded_buffers
from moe.activations.gelu_tanh.member import GeluTanhMul
from moe.errors import MoEError
from moe.experts.base import BatchedExperts, Experts, MonolithicExperts, check_set_up
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


@pytest.mark.parametrize(("tokens", "rank"), [(0, 0), (2, 1)], ids=["no tokens", "no experts"])
def test_zeros_stand_for_the_output_where_there_is_nothing_to_compute(tokens, rank):
    experts = made(rank, num_experts=1, layout=Layout(dp_size=2, use_ep=True))
    # Codes of fp4 have half as many columns as the output.
    zeros = experts.zeros_if_idle(Activations(codes=torch.ones(tokens, 4, dtype=torch.uint8)))
    assert torch.equal(zeros, torch.zeros(tokens, 8, dtype=torch.bfloat16))
    assert made().zeros_if_idle(Activations(codes=torch.ones(2, 8))) is None


def test_zeros_are_a_guarded_buffer_of_their_own():
    with guarded_buffers.poisoned():
        zeros = made().zeros_if_idle(Activations(codes=torch.ones(0, 8)))
        assert zeros.shape == (0, 8)
        assert made(1, num_experts=1, layout=Layout(dp_size=2, use_ep=True)).zeros_if_idle(
            Activations(codes=torch.ones(2, 8))
        ).untyped_storage().nbytes() == guarded_buffers.guarded_size(2 * 8 * 2)


class Hasty(Plain):
    def __init__(self, layer_spec, rank, numerics, quant):
        self.layer_spec, self.rank = layer_spec, rank


def test_a_constructor_that_leaves_its_base_class_out_is_named():
    check_set_up(made())
    text = (
        "Hasty has no attribute numerics, quant, dtype, activation, num_local: its constructor "
        r"must call super\(\).__init__\(layer_spec, rank, numerics, quant\)"
    )
    with pytest.raises(MoEError, match=text):
        check_set_up(Hasty(made().layer_spec, 0, Numerics.stated(), NoQuant()))


class Doubling(BatchedExperts):
    """Each expert's output is twice its input."""

    room = None

    def prepare_weights(self, weights):
        raise NotImplementedError

    def capacity(self, tokens):
        return self.room or super().capacity(tokens)

    def apply(self, batches):
        return batches.x.codes * 2


def test_batched_experts_get_batches_of_what_was_dispatched():
    member = Doubling(made().layer_spec, 0, Numerics.stated(), NoQuant())
    x = Activations(codes=torch.ones(3, 8))
    ids = torch.tensor([[0, 4], [4, -1], [-1, -1]], dtype=torch.int32)
    weights = torch.tensor([[0.5, 1.0], [2.0, torch.nan], [torch.nan, torch.nan]])
    given = Dispatched(x=x, routing=Routing(topk_ids=ids, topk_weights=weights), counts=(3,))
    assert member.run(given)[:, 0].tolist() == [3.0, 4.0, 0.0]
    member.room = 1
    with pytest.raises(MoEError, match="local expert 4 gets 2 rows, and its batch has room for 1"):
        member.run(given)


class Counting(MonolithicExperts):
    def prepare_weights(self, weights):
        raise NotImplementedError

    def apply(self, x, logits):
        return x, logits


def test_monolithic_experts_get_the_logits_that_travelled_as_weights():
    member = Counting(made().layer_spec, 0, Numerics.stated(), NoQuant())
    x, logits = Activations(codes=torch.ones(2, 8)), torch.randn(2, 5)
    routing = Routing.of_logits(logits)
    assert routing.topk_ids.tolist() == [[0], [0]]
    taken = member.run(Dispatched(x=x, routing=routing, counts=(2,)))
    assert taken[0] is x
    assert taken[1] is logits
