"""Puts in real processes: the same rows and sums as `all_to_all`, exact or with a capacity."""

import pytest
import torch

from harness import parallel_launch
from moe.all2all import symm_mem
from moe.all2all.symm_mem import SymmMem
from moe.collectives import ALONE
from moe.errors import MoEError
from tests.moe import stack_ranks

CALLS = {
    2: ((5, 4), (3, 1), (0, 2), (0, 0), (7, 9), (3, 1)),
    4: ((2, 0, 3, 1), (0, 0, 0, 1), (1, 2, 3, 4)),
}


def test_rows_and_sums_are_those_of_all_to_all_call_after_call():
    for kind in ("model", "fp8_static", "fp8_group", "int8_token"):
        for world, calls in CALLS.items():
            for differs, guards, _ in parallel_launch(
                world, stack_ranks.beside_all_to_all, calls, kind
            ):
                assert differs == []
                assert guards == []


def test_with_a_capacity_each_rank_has_as_many_rows_on_each_other():
    for kind in ("model", "fp8_group"):
        for world, calls in CALLS.items():
            for differs, guards, shapes in parallel_launch(
                world, stack_ranks.beside_all_to_all, calls, kind, 9
            ):
                assert differs == []
                assert guards == []
                assert {shape[0] for shape in shapes} == {9 * world}


def test_two_calls_under_way_do_not_share_buffers():
    assert parallel_launch(2, stack_ranks.two_calls_under_way) == [True, True]


def test_more_tokens_than_the_capacity_are_an_error_on_every_rank():
    for error in parallel_launch(2, stack_ranks.too_many_for, 1):
        assert error == (
            "the ranks of a group have 1, 2 tokens in rank order, and the capacity is 1: give more "
            "capacity, or send fewer tokens at a time"
        )
    assert parallel_launch(2, stack_ranks.too_many_for, 2) == ["no error"] * 2


@pytest.mark.usefixtures("on_kernel_device")
def test_a_captured_call_needs_sizes_that_were_agreed_on(monkeypatch):
    member = stack_ranks.made("symm_mem", ALONE)
    member.capacity = 4
    monkeypatch.setattr(symm_mem, "_is_captured", lambda _: True)
    with pytest.raises(MoEError, match=r"a call of 3 tokens, .* call the layer once with as many"):
        member.prepare(*stack_ranks.sent_by(0, 3, "model"))
    monkeypatch.setattr(symm_mem, "_is_captured", lambda _: False)
    member.prepare(*stack_ranks.sent_by(0, 3, "model"))
    monkeypatch.setattr(symm_mem, "_is_captured", lambda _: True)
    assert member.prepare(*stack_ranks.sent_by(0, 3, "model")).tokens.tolist() == [0, 1, 2, -1]


def test_a_member_that_was_not_told_who_holds_what_says_so():
    with pytest.raises(MoEError, match=r"^SymmMem does not know .*make_prepare_finalize$"):
        SymmMem(ALONE).prepare(*stack_ranks.sent_by(0, 3, "model"))


@pytest.mark.usefixtures("on_kernel_device")
def test_one_rank_alone_gets_its_own_rows_back_in_one_buffer():
    member = stack_ranks.made("symm_mem", ALONE)
    x, routing = stack_ranks.sent_by(0, 3, "model")
    got = member.prepare(x, routing)
    assert torch.equal(got.x.codes, x.codes)
    assert torch.equal(member.finalize(got.x.codes, got), x.codes)
