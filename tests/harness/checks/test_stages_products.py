"""Both products, recomputed from recorded rows: with the adapter of each row's token."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.checks.stage_record import handed_out
from harness.checks.stages_products import products
from moe.intermediates import Kept
from tests.harness.checks.observed import observation

pytestmark = pytest.mark.usefixtures("one_thread")


def beyond(call, subject):
    """The elements of each product that are beyond their tolerance."""
    handed = handed_out(subject, call, 0, exact=False)
    ids = handed.ids.flatten()
    flat = ids.argsort(stable=True)
    flat = flat[ids[flat] >= 0]
    expected = products(handed, flat)
    return {
        name: int(((handed.rows(name, flat) - e.value).abs() > e.tolerance).sum())
        for name, e in expected.items()
    }


def test_recorded_products_are_within_tolerance_and_other_adapters_are_not():
    for quant in ("none", "int8_channel"):
        seen = observation(adapters=2, quant=quant)
        call = seen.calls[0]
        assert beyond(call, seen.subject) == {"gemm1": 0, "gemm2": 0}
        none = Kept(value=torch.full_like(call.stages["adapters"].value, -1))
        other = dataclasses.replace(call, stages={**call.stages, "adapters": none})
        assert min(beyond(other, seen.subject).values()) > 100
