"""Mistakes in an activation's parameters give what the real stack gives with them."""

from __future__ import annotations

import dataclasses

import pytest

from harness.mutants import named
from harness.mutants.self_check import rejected
from moe.activations.swiglu.member import SwigluClamped
from tests.harness.mutants.real_layer import assert_foretold
from tests.harness.mutants.samples import assert_no_mistake, case, scene

CLAMPED = case(activation="swiglu_clamped")


@pytest.mark.parametrize("quant", ["none", "fp8_block"])
@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("limit_missing", {"limit": 1e6}),
        ("beta_missing", {"beta": 0.0}),
        ("alpha_missing", {"alpha": 1.0}),
    ],
)
def test_a_wrong_parameter_is_foretold(name, changes, quant, monkeypatch):
    monkeypatch.setattr(SwigluClamped, "row", dataclasses.replace(SwigluClamped.row, **changes))
    least = 0.01 if name == "alpha_missing" else 0.02  # at large gates a sigmoid is 1 anyway
    assert_foretold(name, CLAMPED.replace(quant=quant), least=least)


@pytest.mark.parametrize("which", ["gate", "up"])
def test_half_a_limit_is_foretold(which, monkeypatch):
    def partly(self, gate, up):
        gate, up = (gate, up.clamp(-7, 7)) if which == "gate" else (gate.clamp(max=7), up)
        return gate * (1.702 * gate).sigmoid() * (up + 1)

    monkeypatch.setattr(SwigluClamped, "__call__", partly)
    assert_foretold(f"{which}_limit_missing", CLAMPED)


@pytest.mark.parametrize("quant", ["none", "fp8_tensor", "fp8_block", "int8_channel"])
def test_each_row_shows_that_a_lost_limit_would_be_rejected(quant):
    right = scene(CLAMPED.replace(quant=quant)).first(1)
    assert bool(rejected(named("limit_missing").compute(right)[None], right))


NO_MISTAKE = [
    ("limit_missing", case(), "has no limit"),
    ("beta_missing", case(), "nothing is added to up"),
    ("alpha_missing", case(), "the sigmoid has no factor"),
    ("gate_clamped", CLAMPED, "has a limit"),
    ("swiglu_oai", CLAMPED, "swiglu_clamped is the layer's own activation"),
]


@pytest.mark.parametrize(("name", "point", "text"), NO_MISTAKE)
def test_where_it_changes_nothing_it_is_no_mistake_and_says_why(name, point, text):
    assert_no_mistake(name, point, text)
