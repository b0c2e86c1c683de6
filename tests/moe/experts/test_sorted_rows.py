"""Rows come to the products by expert, those without one last, and go back by token."""

import torch

from moe import guarded_buffers
from moe.experts.sorted_rows import SortedExperts, taken
from moe.formats import FORMATS
from moe.quant.none import NoQuant
from moe.spec import LayerSpec, Numerics
from moe.types import Activations, Routing


class Doubled(SortedExperts):
    """Expert e adds e + 1 to a row; the first product says which rows and groups it got."""

    def prepare_weights(self, weights):
        raise NotImplementedError

    def groups(self, ends, rows):
        return ends, rows

    def first_product(self, x, token, groups):
        self.token, self.told = token, groups
        return x.codes[token].repeat(1, 2)

    def second_product(self, h, order, groups):
        self.order = order
        ends, rows = groups
        expert = torch.searchsorted(ends, torch.arange(rows), right=True)
        return (self.x.codes[self.token] + expert[:, None] + 1).masked_fill(
            expert[:, None] == len(ends), torch.nan
        )


def made():
    sizes = {"m": 3, "hidden": 2, "intermediate": 2, "num_experts": 2, "top_k": 2}
    spec = LayerSpec(**sizes, dtype="f32")
    return Doubled(spec, 0, Numerics.stated(), NoQuant())


def test_rows_are_sorted_summed_by_token_and_unread_beyond_the_last_group():
    experts = made()
    experts.x = Activations(codes=torch.tensor([[0.0, 1.0], [10.0, 11.0], [20.0, 21.0]]))
    ids = torch.tensor([[1, 0], [-1, 1], [-1, -1]], dtype=torch.int32)
    weights = torch.tensor([[0.5, 2.0], [torch.nan, 1.0], [1.0, 1.0]])
    with guarded_buffers.poisoned():
        out = experts.apply(experts.x, Routing(topk_ids=ids, topk_weights=weights))
    assert experts.order.tolist() == [1, 0, 3, 2, 4, 5]
    assert experts.token.tolist() == [0, 0, 1, 1, 2, 2]
    ends, rows = experts.told
    assert (ends.tolist(), rows) == ([1, 3], 6)
    assert out.tolist() == [[0.5 * 2 + 2 * 1, 0.5 * 3 + 2 * 2], [12, 13], [0, 0]]


def test_a_call_without_tokens_reaches_no_product():
    none = Routing(topk_ids=torch.empty(0, 2).int(), topk_weights=torch.empty(0, 2))
    experts = made()
    assert experts.apply(Activations(codes=torch.empty(0, 2)), none).shape == (0, 2)
    assert not hasattr(experts, "token")


def test_rows_of_codes_are_taken_with_their_scales():
    codes = torch.tensor([[1.0], [2.0], [4.0]]).to(torch.float8_e4m3fn)
    x = Activations(
        codes=codes, scale=torch.tensor([[1.0], [2.0], [3.0]]), format=FORMATS["fp8_token"]
    )
    got = taken(x, torch.tensor([2, 0, 2]))
    assert got.codes.float().tolist() == [[4], [1], [4]]
    assert got.scale.tolist() == [[3], [1], [3]]
