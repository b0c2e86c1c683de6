"""A drawn product of experts: its inputs, weights, and the stage that holds its rows."""

from __future__ import annotations

import torch

from harness.diagnosis.conditions import Fact
from harness.diagnosis.input_readings import Values
from harness.diagnosis.other_input_rows import Numbering
from harness.diagnosis.which_inputs import Product
from tests.harness.diagnosis.drawn_errors import of_product

TOKENS, SLOTS, EXPERTS, INNER, COLUMNS, GROUP = 9, 2, 3, 64, 48, 16


def drawn(seed=0, of_tokens=True, group=None):
    """A product: gemm1 of tokens, or gemm2 of slots; with a scale for each `group` columns."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.stack([torch.randperm(EXPERTS, generator=draw)[:SLOTS] for _ in range(TOKENS)])
    rows = Numbering(flat=torch.arange(ids.numel()), ids=ids, of_tokens=of_tokens)
    codes = torch.randint(-100, 101, (rows.count, INNER), generator=draw).float()
    scale = torch.ones_like(codes)
    if group is not None:
        scales = 2.0 ** torch.randn(rows.count, INNER // group, generator=draw)
        scale = scales.repeat_interleave(group, dim=1)
    parts = [
        ((ids.flatten() == e).nonzero().flatten(), torch.randn(COLUMNS, INNER, generator=draw))
        for e in range(EXPERTS)
    ]
    inputs = Values(codes=codes / 50, scale=scale, group=group)
    return Product(parts=parts, inputs=inputs, rows=rows, factor=torch.ones(1, 1))


def errors_of(product, x, noise=0.0, seed=0):
    """The stage if it held the products of the inputs x [R, I]."""
    expected = product.of(product.inputs.values[product.rows.own])
    actual = product.of(x)
    draw = torch.Generator().manual_seed(seed)
    actual = actual + noise * torch.randn(actual.shape, generator=draw)
    one, many = "row * k + slot", "numbers row * k + slot"
    facts = (Fact(one=one, many=many, values=product.rows.flat.double()),)
    stage = "gemm1" if product.rows.of_tokens else "gemm2"
    return of_product(expected, actual, least=1e-4, stage=stage, facts=facts)
