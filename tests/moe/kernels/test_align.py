"""Token alignment against its twin, and both against the example of the docs."""

import pytest
import torch

from moe import guarded_buffers
from moe.kernels.align import align_tokens, align_tokens_torch, padded_rows

_CASES = [  # tokens, top-k, experts, block_m
    (32, 2, 8, 16),
    (1, 1, 1, 16),
    (7, 3, 5, 16),
    (300, 6, 64, 32),
    (64, 1, 3, 128),
    (1100, 2, 6, 64),  # more rows than one program places when compiled
    (4500, 8, 70, 16),  # more chunks than one program counts at once when compiled
]


def _ids(tokens, top_k, experts, share_unused=0.2):
    torch.manual_seed(tokens * experts)
    ids = torch.randint(0, experts, (tokens, top_k), dtype=torch.int32)
    ids[torch.rand(ids.shape) < share_unused] = -1
    return ids


def _assert_same(ids, experts, block_m):
    with guarded_buffers.poisoned():
        got = align_tokens(ids, experts, block_m)
        assert guarded_buffers.broken_guards() == []
    wanted = align_tokens_torch(ids, experts, block_m)
    for name in ("row_ids", "block_expert", "num_rows"):
        assert torch.equal(getattr(got, name), getattr(wanted, name)), name
    return got


def test_the_example_of_the_docs(kernel_device):
    ids = torch.tensor([[0], [1], [0], [-1], [-1]], dtype=torch.int32, device=kernel_device)
    got = _assert_same(ids, 2, 2)
    assert got.row_ids.tolist() == [0, 2, 1, 5, 5, 5]
    assert got.block_expert.tolist() == [0, 1, -1]
    assert int(got.num_rows) == 4


@pytest.mark.parametrize(("tokens", "top_k", "experts", "block_m"), _CASES)
def test_kernel_and_twin_agree(tokens, top_k, experts, block_m, kernel_device):
    _assert_same(_ids(tokens, top_k, experts).to(kernel_device), experts, block_m)


def test_several_programs_place_their_own_chunks(kernel_device, monkeypatch):
    monkeypatch.setattr("moe.kernels.align._chunk", lambda rows, tile: 64)
    monkeypatch.setattr("moe.kernels.align._tile", lambda: 256)  # and each one in several tiles
    _assert_same(_ids(101, 3, 10).to(kernel_device), 10, 16)


def test_every_row_has_one_slot_under_its_expert(kernel_device):
    ids = _ids(97, 4, 12).to(kernel_device)
    got = align_tokens(ids, 12, 16)
    rows = ids.numel()
    placed = got.row_ids[got.row_ids < rows].long()
    assert placed.sort().values.tolist() == (ids.view(-1) >= 0).nonzero().flatten().tolist()
    expert = got.block_expert.repeat_interleave(16)
    assert torch.equal(ids.view(-1)[placed], expert[got.row_ids < rows])


@pytest.mark.parametrize("fill", [-1, 5])
def test_no_row_of_this_rank(fill, kernel_device):
    """All unused; and all of an expert beyond the local ones, which counts as unused."""
    got = _assert_same(torch.full((9, 2), fill, dtype=torch.int32, device=kernel_device), 5, 16)
    assert int(got.num_rows) == 0
    assert set(got.block_expert.tolist()) == {-1}


def test_no_tokens_and_no_experts(kernel_device):
    for shape, experts in (((0, 2), 4), ((3, 2), 0)):
        ids = torch.full(shape, -1, dtype=torch.int32, device=kernel_device)
        got = align_tokens(ids, experts, 16)
        assert got.row_ids.numel() == got.block_expert.numel() == int(got.num_rows) == 0


@pytest.mark.parametrize(("rows", "experts", "block_m"), [(5, 3, 2), (2, 8, 16), (64, 8, 16)])
def test_the_bound_is_reached_and_not_passed(rows, experts, block_m):
    """The worst spread of `rows` over `experts`: as many single rows as there are experts."""

    def used(counts):
        return sum(-(-c // block_m) * block_m for c in counts)

    active = min(rows, experts)
    spread = [1] * (active - 1) + [rows - active + 1]
    assert used(spread) <= padded_rows(rows, experts, block_m) < used(spread) + block_m
