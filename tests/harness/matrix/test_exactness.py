"""Which cases are compared bit for bit, and which formats exact mode refuses."""

from __future__ import annotations

import dataclasses

import pytest

from harness.matrix.case import MoETestConfig
from harness.matrix.exactness import SMALLEST_GATE, exact_refusal, is_bitwise
from moe.activations import ACTIVATIONS
from moe.formats import FORMATS
from moe.routers import ROUTERS
from moe.spec import Scheme


def scheme_of(monkeypatch, **changes):
    """A scheme whose weights are in a format that differs from fp8_block."""
    odd = dataclasses.replace(FORMATS["fp8_block"], name="odd", **changes)
    monkeypatch.setattr(FORMATS, "_rows", FORMATS.rows | {"odd": odd})
    return Scheme(weights="odd", activations="fp8_group")


def test_exact_mode_asks_the_format(monkeypatch):
    assert exact_refusal(Scheme(weights="fp8_block", activations="fp8_group")) is None
    found = exact_refusal(scheme_of(monkeypatch, exact_scale=False))
    text = "exact mode: format odd does not promise exact scales (exact_scale in its row)"
    assert (found.code, found.text) == ("exact_unsupported", text)


def test_exact_mode_refuses_blocks_that_its_inputs_do_not_know(monkeypatch):
    found = exact_refusal(scheme_of(monkeypatch, block=(64, 64)))
    text = "exact mode: no inputs exist for scales of format odd, which has blocks of (64, 64)"
    assert (found.code, found.text) == ("exact_unsupported", text)


EXACT = MoETestConfig(
    m=6, n=128, k=256, num_experts=4, top_k=2, experts="torch_loop", exact=True, shared_experts=1
)


@pytest.mark.parametrize(
    ("changes", "bitwise"),
    [
        ({}, True),
        ({"exact": False}, False),
        ({"top_k": 3}, False),  # a third is no float
        ({"num_experts": 8, "top_k": 8}, False),  # with shared experts more than 8 products
        ({"num_experts": 8, "top_k": 8, "shared_experts": 0}, True),
        ({"shared_experts": 2}, False),
        ({"n": 8}, False),
        ({"k": 8}, False),
        ({"quant": "int8_channel", "n": 132}, False),  # a shard without its largest values
        ({"quant": "none", "n": 132}, True),
    ],
)
def test_bits_are_compared_where_every_sum_is_exact(changes, bitwise):
    assert is_bitwise(EXACT.replace(**changes)) is bitwise


@pytest.mark.parametrize("saturated_at", [32.0, None])
@pytest.mark.parametrize("sums_to_one", [True, False])
@pytest.mark.parametrize("renormalize", [True, False])
def test_router_weights_must_sum_to_one(monkeypatch, renormalize, sums_to_one, saturated_at):
    """Renormalised scores do exactly only if the scores are 1."""
    changes = {"sums_to_one": sums_to_one, "saturated_at": saturated_at}
    row = dataclasses.replace(ROUTERS.row("softmax"), name="other", **changes)
    monkeypatch.setattr(ROUTERS, "_rows", {**ROUTERS.rows, "other": row})
    case = EXACT.replace(router="other", renormalize=renormalize)
    assert is_bitwise(case) is (sums_to_one or (renormalize and saturated_at is not None))


@pytest.mark.parametrize(
    ("identity_from", "bitwise"), [(SMALLEST_GATE, True), (SMALLEST_GATE + 1, False), (None, False)]
)
def test_an_activation_must_leave_every_gate_value_as_it_is(monkeypatch, identity_from, bitwise):
    row = dataclasses.replace(ACTIVATIONS.row("silu"), name="other", identity_from=identity_from)
    monkeypatch.setattr(ACTIVATIONS, "_rows", {**ACTIVATIONS.rows, "other": row})
    assert is_bitwise(EXACT.replace(activation="other")) is bitwise


def test_integer_codes_are_exact_only_where_gate_and_up_have_scales_of_their_own():
    sizes = {"m": 4, "n": 192, "k": 128, "num_experts": 4, "top_k": 2}
    cut = MoETestConfig(**sizes, experts="torch_loop", exact=True, quant="int8_block")
    assert not is_bitwise(cut)
    assert is_bitwise(cut.replace(n=256))
    assert is_bitwise(cut.replace(quant="fp8_block"))
