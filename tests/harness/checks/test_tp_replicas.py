"""Ranks of one TP group hold the same bits of the same tokens."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from harness.checks.bits import row_sums
from harness.checks.tp_replicas import message
from moe.layout import Layout

OUT = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).bfloat16()


def one_bit_off(rows: list[int]) -> torch.Tensor:
    other = OUT.clone()
    other.view(torch.int16)[rows, 3] ^= 1
    return other


def subject(other: torch.Tensor, layout: Layout):
    """A rank whose partner holds `other`."""
    tp = SimpleNamespace(
        size=layout.tp_size, all_gather=lambda sums: torch.cat([sums, row_sums(other)])
    )
    layer = SimpleNamespace(groups=SimpleNamespace(tp=tp))
    return SimpleNamespace(layer=layer, case=SimpleNamespace(layout=layout))


def test_equal_bits_are_no_finding():
    assert message(subject(OUT.clone(), Layout(tp_size=2)), OUT) is None


def test_tokens_with_one_other_bit_are_named():
    text = message(subject(one_bit_off([1, 2, 5]), Layout(tp_size=2)), OUT)
    assert text == (
        "ranks of one TP group hold different bits of 3 of 6 tokens (1-2, 5): add in the same "
        "order on every rank, or add once and broadcast the result"
    )


@pytest.mark.parametrize(
    ("layout", "tokens"),
    [
        (Layout(dp_size=2), 6),
        (Layout(tp_size=2, use_ep=True, sequence_parallel=True), 6),
        (Layout(tp_size=2), 0),
    ],
    ids=["no TP", "sequence parallel", "no tokens"],
)
def test_where_there_are_no_replicas_nothing_is_gathered(layout, tokens):
    alone = subject(one_bit_off([0]), layout)
    alone.layer.groups.tp.all_gather = None  # calling it would raise
    assert message(alone, OUT[:tokens]) is None
