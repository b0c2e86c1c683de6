"""Exchanges in real processes: a token goes once to each rank of its experts; sums come back."""

import pytest
import torch

from harness import parallel_launch
from moe.all2all.all_to_all import AllToAll
from moe.collectives import ALONE
from moe.errors import MoEError
from moe.types import Routing
from tests.moe import stack_ranks

COUNTS = [(3, 1), (0, 2), (0, 0), (2, 0, 3, 1)]


def expected(counts, kind, rank):
    """(token number, codes, scale, ids, weights) of each row that this rank should get."""
    world, number, rows = len(counts), 0, []
    for sender, count in enumerate(counts):
        x, routing = stack_ranks.sent_by(sender, count, kind)
        for i in range(count):
            ids = routing.topk_ids[i]
            is_here = ids % world == rank  # see stack_ranks.made
            if bool(is_here.any()):
                scale = x.scale[i] if x.scale is not None and x.scale.ndim == 2 else x.scale
                ids = torch.where(is_here, ids, -1)
                rows.append((number, x.codes[i], scale, ids, routing.topk_weights[i]))
            number += 1
    return rows


@pytest.mark.parametrize("kind", ["model", "fp8_static", "fp8_group", "int8_token"])
def test_a_rank_gets_the_tokens_of_its_experts_once(kind):
    for counts in COUNTS:
        for rank, got in enumerate(
            parallel_launch(len(counts), stack_ranks.dispatched, "all_to_all", counts, kind)
        ):
            rows = expected(counts, kind, rank)
            assert got["counts"] == counts
            assert got["tokens"].tolist() == [row[0] for row in rows]
            for i, (_, codes, scale, ids, weights) in enumerate(rows):
                exact = codes.view(torch.uint8) if codes.element_size() == 1 else codes.float()
                assert torch.equal(got["codes"][i], exact)
                assert torch.equal(got["ids"][i], ids)
                assert torch.equal(got["weights"][i], weights)
                if scale is not None:
                    own = got["scale"][i] if got["scale"].ndim == 2 else got["scale"]
                    assert torch.equal(own, scale)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_sums_are_added_in_float32_and_rounded_once(dtype):
    """Each rank gives (its number + 1) times the first id of a row, or -1 if that is elsewhere."""
    for counts in COUNTS:
        world = len(counts)
        got = parallel_launch(world, stack_ranks.finalized, "all_to_all", counts, dtype)
        for rank, (same_dtype, out) in enumerate(got):
            assert same_dtype
            _, routing = stack_ranks.sent_by(rank, counts[rank], "model")
            wanted = torch.zeros(counts[rank])
            for i, ids in enumerate(routing.topk_ids.tolist()):
                for holder in range(world):
                    if any(e % world == holder for e in ids):
                        number = ids[0] if ids[0] % world == holder else -1
                        part = torch.tensor(float(number * (holder + 1)))
                        wanted[i] += part.to(getattr(torch, dtype)).float()
            rounded = wanted.to(getattr(torch, dtype)).float()
            assert torch.equal(out, rounded[:, None].expand(-1, 8))


def test_ids_that_nobody_holds_go_nowhere():
    member = stack_ranks.made("all_to_all", ALONE)
    x, routing = stack_ranks.sent_by(0, 3, "model")
    ids = torch.tensor([[-1, 4], [-1, -1], [1000, 2000]], dtype=torch.int32)
    got = member.prepare(x, Routing(topk_ids=ids, topk_weights=routing.topk_weights))
    assert got.tokens.tolist() == [0]
    assert got.routing.topk_ids.tolist() == [[-1, 4]]
    assert member.finalize(torch.ones(1, 8), got)[:, 0].tolist() == [1, 0, 0]


def test_a_member_that_was_not_told_who_holds_what_says_so():
    with pytest.raises(MoEError, match=r"^AllToAll does not know .*make_prepare_finalize$"):
        AllToAll(ALONE).prepare(*stack_ranks.sent_by(0, 3, "model"))
