"""Shared experts left out, added twice or gated wrongly, fused with the routed ones or not."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import silu

from harness.mutants import named
from harness.mutants.shared import shared_part
from tests.harness.mutants.real_layer import SAME
from tests.harness.mutants.samples import apart, assert_no_mistake, case, scene

GATED = case(shared_experts=1, shared_gate=True)


def test_shared_experts_see_what_the_routed_ones_gave():
    here = scene(case(shared_experts=1))
    routed = here.answer.out - here.answer.shared
    wrong = here.reference(routed.bfloat16(), here.topk_ids, here.topk_weights)
    assert apart(named("shared_from_output").compute(here), routed + wrong.shared) < SAME


@pytest.mark.parametrize("fields", [{}, {"shared_gate": True}, {"shared_experts": 2}])
def test_fused_ones_add_what_separate_ones_add(fields):
    fields = {"shared_experts": 1, **fields}
    separate, fused = scene(case(**fields)), scene(case(shared_fused=True, **fields))
    assert fused.answer.shared is None
    assert apart(shared_part(fused), separate.answer.shared) < 0.01
    assert apart(fused.answer.out, separate.answer.out) < 0.01
    for name in ("shared_missing", "shared_twice"):
        outs = [named(name).compute(here) for here in (fused, separate)]
        assert apart(*outs) < 0.01


@pytest.mark.parametrize(
    ("name", "fields", "formula"),
    [
        ("shared_silu", {"activation": "gelu_tanh"}, lambda gate, up: silu(gate) * up),
        ("shared_silu", {"activation": "relu2_no_mul"}, lambda product, _: silu(product)),
        ("shared_halves_swapped", {}, lambda gate, up: silu(up) * gate),
        (
            "shared_not_quantized",
            {"shared_quant": "int8_channel"},
            lambda gate, up: silu(gate) * up,
        ),
    ],
)
def test_another_formula_of_separate_ones(name, fields, formula):
    here = scene(case(shared_experts=1, **fields))
    truth = here.reference.shared
    product = here.x.float() @ truth.w13.float().T
    parts = product.chunk(2, dim=1) if truth.activation.gated else (product, None)
    h = formula(*(None if part is None else part.bfloat16().float() for part in parts))
    wrong = here.answer.out - here.answer.shared + h.bfloat16().float() @ truth.w2.float().T
    assert apart(named(name).compute(here), wrong) < 0.01
    assert apart(here.answer.out, wrong) > 0.02 or name == "shared_not_quantized"


def test_a_gate_is_the_sigmoid_of_a_product():
    here = scene(GATED)
    product = here.x.float() @ here.reference._shared_gate.float().T
    factor = product.sigmoid()
    plain, routed = here.answer.shared / factor, here.answer.out - here.answer.shared
    wanted = {
        "shared_gate_ignored": plain,
        "shared_gate_twice": plain * factor.square(),
        "shared_gate_not_squashed": plain * product,
    }
    for name, shared in wanted.items():
        assert apart(named(name).compute(here), routed + shared) < SAME
    assert float(factor.amax() - factor.amin()) > 0.2  # the gate differs from token to token
    assert not torch.allclose(factor, factor.mean(), atol=0.1)


@pytest.mark.parametrize(
    ("name", "one", "why"),
    [
        ("shared_missing", case(), "no shared experts"),
        ("shared_twice", case(), "no shared experts"),
        ("shared_silu", case(), "no shared experts of their own"),
        ("shared_silu", case(shared_experts=1), "activation is SiLU"),
        ("shared_halves_swapped", case(shared_experts=1, shared_fused=True), "of their own"),
        (
            "shared_halves_swapped",
            case(shared_experts=1, activation="relu2_no_mul"),
            "is not gated",
        ),
        ("shared_not_quantized", case(shared_experts=1), "are not quantized"),
        ("shared_from_output", case(), "no shared experts"),
        ("shared_from_output", case(shared_experts=1, shared_fused=True), "from their own input"),
        ("shared_gate_ignored", case(shared_experts=1), "have no gate"),
        ("shared_gate_twice", case(), "no shared experts"),
    ],
)
def test_where_there_is_no_mistake(name, one, why):
    assert_no_mistake(name, one, why)
