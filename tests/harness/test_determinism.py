"""A member that claims the same bits again is taken at its word."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from stage_faults import case, nothing, run

from harness.repeat import difference, is_claimed
from harness.result import Verdict
from moe.all2all import ALL2ALL
from moe.experts import EXPERTS
from moe.experts.torch_loop import TorchLoopExperts

pytestmark = pytest.mark.usefixtures("one_thread")


def unsteady(monkeypatch):
    """From the third call on, which is the repetition, one element's last bit is another."""
    calls = itertools.count()
    real = TorchLoopExperts.apply

    def apply(self, x, routing):
        out = real(self, x, routing)
        if next(calls) >= 2:
            bits = out.view(torch.int16)
            bits[2, 7] += 1
        return out

    monkeypatch.setattr(TorchLoopExperts, "apply", apply)


def disclaim(monkeypatch, registry, name):
    row = dataclasses.replace(registry.row(name), deterministic=False)
    real = type(registry).row
    monkeypatch.setattr(
        type(registry), "row", lambda self, asked: row if asked == name else real(self, asked)
    )


def test_one_bit_is_found_and_named(monkeypatch):
    unsteady(monkeypatch)
    found = run(nothing, case(m=8, all2all="local").id)
    assert found.verdict is Verdict.FAILED
    (text,) = [t for t in found.messages if t.startswith("not deterministic: ")]
    assert "1 of 1024 elements differ when the same call is repeated, first [2, 7]: " in text
    first, then = text.split("[2, 7]: ")[1].split("; ")[0].split(", then ")
    assert float(first) != float(then)
    assert abs(float(first) / float(then) - 1) < 2.0**-6


@pytest.mark.parametrize(("registry", "name"), [(EXPERTS, "torch_loop"), (ALL2ALL, "local")])
def test_without_the_claim_of_all_nothing_is_repeated(monkeypatch, registry, name):
    unsteady(monkeypatch)
    disclaim(monkeypatch, registry, name)
    found = run(nothing, case(m=8, all2all="local").id)
    assert not any("not deterministic" in text for text in found.messages)
    assert not is_claimed(case(all2all="local"))


def test_who_claims_it():
    claims = {row.name: row.deterministic for row in EXPERTS}
    assert claims["flashinfer_cutlass"] is False  # its fused sum uses atomics
    assert all(claims[name] for name in ("triton", "torch_loop", "torch_grouped"))
    assert is_claimed(case(all2all="local"))
    assert is_claimed(case())


def test_bits_are_compared_and_nothing_less():
    x = torch.tensor([[0.0, 1.0], [float("nan"), 2.0]], dtype=torch.bfloat16)
    assert difference(x, x.clone()) is None
    negative = x.clone()
    negative[0, 0] = -0.0
    assert "1 of 4 elements differ" in difference(x, negative)
    assert "[0, 0]: 0, then -0" in difference(x, negative)
    assert "the output was [2, 2] torch.bfloat16 and is [1, 2]" in difference(x, x[:1])
    assert "is [2, 2] torch.float32 when repeated" in difference(x, x.float())
