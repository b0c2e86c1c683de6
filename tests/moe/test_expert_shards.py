"""Weights are quantized a few experts at a time, and nobody can tell."""

from __future__ import annotations

import weakref

import pytest
import torch

from moe import expert_shards
from moe.layout import Layout
from moe.quant import QUANT
from moe.spec import LayerSpec


def shards(quant, biases=None, *, experts=5, n=256):
    """The shard of rank 1 of two, of weights that differ in size from expert to expert."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.arange(1, experts + 1)[:, None, None]
    w13 = torch.randn(experts, 2 * n, 128, generator=generator) * sizes
    w2 = torch.randn(experts, 128, n, generator=generator) * sizes
    spec = LayerSpec(
        m=8,
        hidden=128,
        intermediate=n,
        num_experts=experts,
        top_k=2,
        layout=Layout(tp_size=2),
        scheme=QUANT.row(quant).scheme,
        expert_bias=biases is not None,
    )
    w13, w2 = w13.bfloat16(), w2.bfloat16()
    some = (
        (w13[part], w2[part], biases and (biases[0][part], biases[1][part]))
        for part in expert_shards.groups(experts, 3 * n * 128, "cpu")
    )
    return expert_shards.shard_in_groups(spec, 1, QUANT.load(quant)(), some)


def test_only_one_group_of_full_experts_exists_at_a_time():
    """What a group was made of is free before the next one is made."""
    alive = []

    def groups():
        for _ in range(3):
            assert [made for made in alive if made() is not None] == []
            w13, w2 = torch.ones(1, 256, 64), torch.ones(1, 64, 128)
            alive.extend(map(weakref.ref, (w13, w2)))
            yield w13, w2, None
            del w13, w2

    spec = LayerSpec(m=8, hidden=64, intermediate=128, num_experts=3, top_k=2)
    method = QUANT.load("int8_channel")()
    assert len(expert_shards.shard_in_groups(spec, 0, method, groups()).w13) == 3


@pytest.mark.parametrize("quant", QUANT.rows)
def test_a_few_experts_at_a_time_give_the_same_bits_as_all_at_once(quant, monkeypatch):
    whole = shards(quant)
    monkeypatch.setitem(expert_shards.AT_ONCE, "cpu", 2 * 3 * 256 * 128)  # two experts, and a rest
    parts = shards(quant)
    assert whole.by_expert.keys() == parts.by_expert.keys()
    for name, tensor in whole.by_expert.items():
        other = parts.by_expert[name]
        assert tensor.dtype == other.dtype
        assert tensor.shape == other.shape
        assert tensor.view(torch.uint8).equal(other.view(torch.uint8)), name


def test_each_part_has_the_biases_of_its_experts(monkeypatch):
    b13, b2 = torch.arange(5 * 512.0).view(5, 512), torch.arange(5 * 128.0).view(5, 128)
    monkeypatch.setitem(expert_shards.AT_ONCE, "cpu", 1)
    mine = shards("fp8_block", (b13, b2))
    assert mine.b13.equal(torch.cat([b13[:, 128:256], b13[:, 384:]], dim=1))
    assert mine.b2.equal(torch.zeros_like(b2)), "the rank with the first column adds them"


def test_groups_follow_the_size_of_an_expert_and_hold_all_of_them_once():
    at_once = expert_shards.AT_ONCE["cpu"] // (3 * 128 * 512)
    some = expert_shards.groups(8, 3 * 128 * 512, "cpu")
    assert some[0] == slice(0, at_once)
    assert [e for part in some for e in range(8)[part]] == list(range(8))
    assert len(expert_shards.groups(8, 3 * 4096 * 512, "cpu")) == 8
    (none,) = expert_shards.groups(0, 3 * 8 * 8, "cpu")
    assert list(range(8)[:0][none]) == []
