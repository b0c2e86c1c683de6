"""What every all2all backend keeps: one rank alone gets its own rows back."""

import pytest
import torch

from moe.all2all import ALL2ALL
from moe.collectives import ALONE
from moe.types import Dispatched
from tests.moe import stack_ranks


@pytest.mark.parametrize("name", list(ALL2ALL.rows))
def test_one_rank_alone_gets_its_own_rows_back(name):
    member = ALL2ALL.load(name)(ALONE)
    x, routing = stack_ranks.sent_by(0, 3, "fp8_group")
    got = member.prepare(x, routing)
    assert isinstance(got, Dispatched)
    assert got.counts == (3,)
    assert torch.equal(got.x.codes.view(torch.uint8), x.codes.view(torch.uint8))
    assert torch.equal(got.x.scale, x.scale)
    assert torch.equal(got.routing.topk_ids, routing.topk_ids)
    partial = torch.arange(24.0).view(3, 8)
    assert torch.equal(member.finalize(partial, got), partial)
