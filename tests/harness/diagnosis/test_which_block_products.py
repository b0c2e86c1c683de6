"""Scales of blocks are named as they were drawn; nothing is said of noise and of mixtures."""

from __future__ import annotations

import torch

from harness.diagnosis.weight_codes import Codes
from harness.diagnosis.which_block_products import blocks_of, others, which_block_products
from harness.diagnosis.which_weights import Multiplied
from tests.harness.diagnosis.drawn_errors import of_product

ROWS, INNER, COLUMNS, EXPERTS, BLOCK = 5, 128, 24, 2, 32


def experts():
    draw = torch.Generator().manual_seed(0)
    codes = torch.randn(ROWS * EXPERTS, INNER, generator=draw)
    scale = (2.0 ** torch.randn(len(codes), INNER // BLOCK, generator=draw)).repeat_interleave(
        BLOCK, 1
    )
    given = []
    for e in range(EXPERTS):
        w = torch.randn(COLUMNS, INNER, generator=draw)
        of_w = 2.0 ** torch.randn(COLUMNS, INNER // BLOCK, generator=draw)
        spread = of_w.repeat_interleave(BLOCK, 1)
        matrix = Codes(ratio=w, codes=w, scale=spread, zero=torch.zeros_like(w))
        rows = torch.arange(e * ROWS, (e + 1) * ROWS)
        x = codes[rows] * scale[rows]
        given.append(Multiplied(rows=rows, x=x, codes=matrix))
    return list(blocks_of(given, codes, scale, torch.ones(len(codes), 1)))


def said(blocks, scales, noise=0.0):
    """The statements if the experts' blocks were multiplied by these scales."""
    expected = torch.cat([one.total(one.scales) for one in blocks])
    actual = torch.cat([one.total(s) for one, s in zip(blocks, scales, strict=True)])
    actual = actual + noise * torch.randn(actual.shape, generator=torch.Generator().manual_seed(1))
    errors = of_product(expected, actual, least=1e-4)
    return [c.cause.removeprefix("in stage gemm1 ") for c in which_block_products(errors, blocks)]


def test_blocks_sum_to_the_product():
    blocks = experts()
    assert blocks[0].products.shape == (ROWS, COLUMNS, INNER // BLOCK)
    assert len(blocks) == EXPERTS


def test_each_kind_of_scales_is_named():
    blocks = experts()
    for number, (text, _) in enumerate(others(blocks[0])):
        assert said(blocks, [others(one)[number][1] for one in blocks]) == [text]


def test_nothing_is_said_of_noise_and_of_experts_that_differ():
    blocks = experts()
    right = [one.scales for one in blocks]
    assert said(blocks, right) == []
    assert said(blocks, right, noise=2.0) == []
    assert said(blocks, [others(blocks[0])[0][1], others(blocks[1])[3][1]]) == []
