"""Rows sorted into a block for each expert, and back."""

from dataclasses import replace

import pytest
import torch

from moe import guarded_buffers
from moe.batches import from_batches, to_batches, with_adapters
from moe.errors import MoEError
from moe.quant import QUANT
from moe.quant.base import dequantize_activations
from moe.types import Activations, Routing
from tests.moe.kernels.kernel_cases import QUANTS, layer_spec_of, routing_of, same

pytestmark = pytest.mark.usefixtures("one_thread")


def plain(rows, columns=4):
    return Activations(codes=torch.arange(rows * columns).view(rows, columns).bfloat16())


def test_rows_lie_in_the_block_of_their_expert_in_flat_order():
    ids = torch.tensor([[0, 1], [-1, 0], [2, 0]], dtype=torch.int32)
    x = plain(3)
    made = to_batches(x, ids, 4, 3)
    assert made.counts.tolist() == [3, 1, 1, 0]
    assert made.counts.dtype == torch.int32
    assert made.slots.tolist() == [[0, 3, 5], [1, -1, -1], [4, -1, -1], [-1, -1, -1]]
    assert made.x.codes.shape == (4, 3, 4)
    for e, row, token in ((0, 0, 0), (0, 1, 1), (0, 2, 2), (1, 0, 0), (2, 0, 2)):
        assert torch.equal(made.x.codes[e, row], x.codes[token])


def test_each_row_has_its_tokens_adapter_and_a_row_that_is_not_in_use_none():
    ids = torch.tensor([[0, 1], [-1, 0], [2, 0]], dtype=torch.int32)
    made = to_batches(plain(3), ids, 4, 3)
    routing = Routing(topk_ids=ids, topk_weights=torch.ones(3, 2))
    assert with_adapters(made, routing) is made
    numbered = replace(routing, adapters=torch.tensor([5, 7, -1], dtype=torch.int32))
    of_rows = with_adapters(made, numbered).adapters
    assert of_rows.dtype == torch.int32
    assert of_rows.tolist() == [[5, 7, -1], [5, -1, -1], [-1, -1, -1], [-1, -1, -1]]


def test_rows_that_are_not_in_use_are_never_written():
    with guarded_buffers.poisoned():
        made = to_batches(plain(2), torch.tensor([[1], [-1]], dtype=torch.int32), 2, 2)
        assert guarded_buffers.broken_guards() == []
    used = made.slots >= 0
    assert used.tolist() == [[False, False], [True, False]]
    assert bool(made.x.codes[~used].isnan().all())
    assert not bool(made.x.codes[used].isnan().any())


@pytest.mark.parametrize("quant_name", QUANTS)
@pytest.mark.parametrize("unused", [0.0, 0.5])
def test_there_and_back_is_the_weighted_sum_of_the_rows(quant_name, unused):
    torch.manual_seed(0)
    spec, quant = layer_spec_of(quant_name, hidden=256), QUANT.load(quant_name)()
    x = quant.quantize_input(torch.randn(spec.m, 256).bfloat16(), torch.tensor(4 / 448))
    routing = routing_of(spec, torch.device("cpu"), unused)
    with guarded_buffers.poisoned():
        made = to_batches(x, routing.topk_ids, spec.num_experts, spec.m)
        flat = made.x.replace(
            codes=made.x.codes.flatten(0, 1),
            scale=made.x.scale.flatten(0, 1) if x.format.has_row_scales else made.x.scale,
        )
        y = dequantize_activations(Activations(**vars(flat))).view(made.x.codes.shape)
        got = from_batches(y, made, routing)
        assert guarded_buffers.broken_guards() == []
    used = (routing.topk_ids >= 0)[:, :, None]
    weights = torch.where(used, routing.topk_weights[:, :, None], 0.0)
    expected = (dequantize_activations(x)[:, None] * weights).sum(dim=1)
    assert torch.allclose(got, expected, rtol=1e-6, atol=1e-7)
    assert got.dtype == torch.float32


@pytest.mark.parametrize(("tokens", "experts"), [(0, 3), (2, 0)])
def test_no_tokens_and_no_experts(tokens, experts):
    ids = torch.full((tokens, 2), -1, dtype=torch.int32)
    made = to_batches(plain(tokens), ids, experts, tokens)
    assert made.counts.tolist() == [0] * experts
    routing = Routing(topk_ids=ids, topk_weights=torch.ones(tokens, 2))
    got = from_batches(torch.full((experts, tokens, 4), torch.nan), made, routing)
    assert same(got, torch.zeros(tokens, 4))


def test_more_rows_than_there_is_room_for_are_an_error():
    ids = torch.tensor([[0], [1], [1]], dtype=torch.int32)
    assert to_batches(plain(3), ids, 2, 2).counts.tolist() == [1, 2]
    text = r"local expert 1 gets 2 rows, and its batch has room for 1: return more from `capacity`"
    with pytest.raises(MoEError, match=text):
        to_batches(plain(3), ids, 2, 1)
