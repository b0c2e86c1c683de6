"""Shrink and expand against their twin: pairs of adapter and expert, padding, rows without."""

import pytest
import torch

from moe import guarded_buffers
from moe.errors import MoEError
from moe.kernels.lora import add_lora, add_lora_torch, check, pair_ids
from moe.kernels.tiles import small_tiles


def problem(device, *, slots=False, halves=2, rank=5, inner=40, out=24, pad=8):
    """y, x, (ids, adapters), (A, B): 9 tokens, 2 slots, 3 experts, 2 adapters."""
    torch.manual_seed(0)
    x = torch.randn(18 if slots else 9, inner + pad, device=device).bfloat16()
    y = torch.randn(18, halves * (out + pad), device=device)
    ids = torch.randint(-1, 3, (9, 2), dtype=torch.int32, device=device)
    adapters = torch.tensor([0, -1, 1, 1, 0, -1, 1, 0, 1], dtype=torch.int32, device=device)
    a = torch.randn(2, 3, halves, rank, inner, device=device).bfloat16()
    b = torch.randn(2, 3, halves, out, rank, device=device).bfloat16()
    return y, x, (ids, adapters), (a, b)


def test_kernel_and_twin_agree(kernel_device):
    for shape in (
        {},
        {"slots": True, "halves": 1},
        {"rank": 16, "inner": 130, "out": 70, "pad": 0},
    ):
        for as_float in (False, True):
            y, x, chosen, matrices = problem(kernel_device, **shape)
            x = x.float() if as_float else x
            got, wanted = y.clone(), y.clone()
            with guarded_buffers.poisoned():
                add_lora(got, x, chosen, matrices)
                assert guarded_buffers.broken_guards() == []
            add_lora_torch(wanted, x, chosen, matrices)
            assert float((got - wanted).abs().max() / wanted.abs().max()) < 1e-5
            ids, adapters = chosen
            plain = ((ids < 0) | (adapters < 0)[:, None]).reshape(-1)
            assert torch.equal(got[plain], y[plain])
            assert not torch.equal(got[~plain], y[~plain])


def test_many_small_tiles_give_the_same(kernel_device):
    y, x, chosen, matrices = problem(kernel_device, out=150)
    got, wanted = y.clone(), y.clone()
    with small_tiles():
        add_lora(got, x, chosen, matrices)
    add_lora_torch(wanted, x, chosen, matrices)
    assert float((got - wanted).abs().max() / wanted.abs().max()) < 1e-5


def test_pairs_are_numbered_by_adapter_and_expert():
    ids = torch.tensor([[0, 2], [-1, 1], [1, 2]], dtype=torch.int32)
    pairs = pair_ids(ids, torch.tensor([1, 0, -1], dtype=torch.int32), 3)
    assert pairs.tolist() == [[3, 5], [-1, 1], [-1, -1]]
    assert pairs.dtype == torch.int32


@pytest.mark.parametrize("do", [add_lora, add_lora_torch])
def test_no_rows_and_no_experts(do, kernel_device):
    y, x, (ids, adapters), (a, b) = problem(kernel_device)
    do(y[:0], x[:0], (ids[:0], adapters[:0]), (a, b))
    before = y.clone()
    do(y, x, (torch.full_like(ids, -1), adapters), (a, b))
    assert torch.equal(y, before)


def test_shapes_that_do_not_fit_are_errors():
    y, x, (ids, _), (a, b) = problem(torch.device("cpu"))
    for args, text in (
        ((y, x, ids, (a[:, :2], b)), "adapters, experts, halves and rank must be the same"),
        ((y, x[:, :30], ids, (a, b)), "need rows for tokens or slots, of at least I columns"),
        ((y, x[:5], ids, (a, b)), "need rows for tokens or slots"),
        ((y.bfloat16(), x, ids, (a, b)), "is added to float32 with at least O columns"),
        ((y[:, :40], x, ids, (a, b)), "at least O columns in each half"),
    ):
        with pytest.raises(MoEError, match=text):
            check(*args)
    with pytest.raises(MoEError, match=r"adapters is \[8\]; it must have one id for each of 9"):
        add_lora(y, x, (ids, ids[1:, 0]), (a, b))
