"""What every all2all backend keeps: one rank alone gets its own rows back."""

import pytest
import torch

from harness import parallel_launch
from moe.all2all import ALL2ALL
from moe.collectives import ALONE
from moe.spec import STANDARD
from moe.types import Dispatched, Routing
from tests.moe import stack_ranks

# Released packages have tests of their own: no machine here runs one.
OURS = [row for row in ALL2ALL if not row.needs.packages]
ACROSS = [row.name for row in OURS if row in ALL2ALL.built_in and row.needs.max_world is None]


@pytest.mark.usefixtures("on_kernel_device")
@pytest.mark.parametrize("name", [row.name for row in OURS if row.dispatch_format == STANDARD])
def test_one_rank_alone_gets_its_own_rows_back(name):
    member = stack_ranks.made(name, ALONE)
    x, routing = stack_ranks.sent_by(0, 3, "fp8_group")
    routing = Routing(topk_ids=routing.topk_ids[:, :1], topk_weights=routing.topk_weights[:, :1])
    got = member.prepare(x, routing)
    assert isinstance(got, Dispatched)
    assert got.counts == (3,)
    assert torch.equal(got.x.codes.view(torch.uint8), x.codes.view(torch.uint8))
    assert torch.equal(got.x.scale, x.scale)
    assert torch.equal(got.routing.topk_ids, routing.topk_ids)
    partial = torch.arange(24.0).view(3, 8)
    assert torch.equal(member.finalize(partial, got), partial)


def test_ranks_that_disagree_all_raise_an_error():
    says = {
        "width": "on the bytes of a row of x: 256, 128 in rank order; call the same layer",
        "slots": "on the slots of a token: 2, 1 in rank order",
        "dtype": "on the bytes of a row of x: 256, 8 in rank order",
        "map": "on the experts of each rank (a checksum): ",
        "capacity": "on the capacity of an expert, -1 = for all tokens: -1, 0 in rank order",
        "no room": "capacity is -3: no expert has room for a row; pass at least 1, or None for",
    }
    for name in ACROSS:
        for what, text in says.items():
            for error in parallel_launch(2, stack_ranks.disagreeing, name, what):
                assert text in error, (name, what)
