"""One rank: nothing is moved or copied."""

import torch

from moe.all2all.local import Local
from moe.collectives import ALONE
from tests.moe import stack_ranks


def test_rows_and_sums_are_handed_on():
    x, routing = stack_ranks.sent_by(0, 3, "model")
    sent = Local(ALONE).prepare(x, routing)
    assert sent.x is x
    assert sent.routing is routing
    assert sent.counts == (3,)
    partial = torch.ones(3, 8)
    assert Local(ALONE).finalize(partial, sent) is partial
