"""What was not quantized is named from the output alone; noise never is taken for it."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch

from harness.checks import quantization_applied
from harness.checks.check import Observation
from harness.checks.quantization_applied import (
    VARIANTS,
    _variant,
    message,
    projections,
    variants_of,
)
from harness.fixtures.layer_under_test import make_subject
from harness.fixtures.phase_timer import Clock
from harness.fixtures.rank_context import RankContext
from harness.fixtures.run_calls import run_call
from harness.record.result import Finding, Verdict
from moe.quant import QUANT
from moe.quant.int8_channel import Int8Channel
from moe.reference.output_values import OutputValues
from moe.spec import Scheme
from moe.types import Activations
from tests.harness.checks.stage_faults import case, nothing, run

pytestmark = pytest.mark.usefixtures("one_thread")

QUANTIZED = [name for name in QUANT.rows if name != "none"]


@functools.cache
def first_call(quant: str, m: int):
    here = RankContext(rank=0, world_size=1, device=torch.device("cpu"), transport="gloo")
    with torch.inference_mode():
        subject = make_subject(case(quant=quant, m=m, k=256), here)
        return subject, run_call(subject, here, Clock(context=here), 0)


def with_output(call, out):
    output = dataclasses.replace(call.output, out=out)
    return dataclasses.replace(call, output=output)


@torch.inference_mode()
def of_variant(subject, call, what):
    """The call as a layer would have answered that leaves something unquantized."""
    routing = call.output.routing
    variant = subject.reference.remade(VARIANTS[what])
    sent = call.tokens.x, routing.topk_ids, routing.topk_weights
    out = variant.outputs(*sent, call.answer, shared=call.answer.shared)
    return with_output(call, out.bfloat16())


@pytest.mark.parametrize(
    "features",
    [
        *({"quant": quant} for quant in ["nvfp4_dynamic", "mxfp4_mxfp8", "int4_zp_g32"]),
        {"quant": "fp8_block", "expert_bias": True, "activation": "swiglu_clamped"},
        {"quant": "int8_channel", "zero_experts": 2, "top_k": 3},
        {"latent": 128},
        {"adapters": 2, "lora_rank": 4},
    ],
    ids=str,
)
@torch.inference_mode()
def test_a_layer_that_leaves_nothing_out_is_the_reference(features):
    here = RankContext(rank=0, world_size=1, device=torch.device("cpu"), transport="gloo")
    subject = make_subject(case(experts="triton", m=8, k=256, shared_experts=1, **features), here)
    call = run_call(subject, here, Clock(context=here), 0)
    rows = torch.arange(len(call.tokens.x))
    out = _variant(subject.reference.remade(OutputValues), call, rows)
    assert torch.equal(out, call.answer.out)


@pytest.mark.parametrize("m", [1, 8])
@pytest.mark.parametrize("quant", QUANTIZED)
def test_a_right_layer_projects_to_one(quant, m):
    found = projections(*_listed(first_call(quant, m)))
    variants = list(variants_of(QUANT.row(quant).scheme))
    assert [projection.unquantized for projection in found] == variants
    assert all(abs(1 - projection.t) <= projection.noise_limit < 0.5 for projection in found)
    assert message(found, quant) is None


def _listed(pair):
    return pair[0], [pair[1]]


@pytest.mark.parametrize("m", [1, 8])
@pytest.mark.parametrize(
    ("quant", "what"),
    [(name, what) for name in QUANTIZED for what in variants_of(QUANT.row(name).scheme)],
)
def test_what_was_left_unquantized_is_named(quant, m, what):
    subject, call = first_call(quant, m)
    found = projections(subject, [of_variant(subject, call, what)])
    (exact,) = [projection for projection in found if projection.unquantized == what]
    assert abs(exact.t) < exact.noise_limit < 0.5
    text = message(found, quant)
    assert text is not None
    assert text.startswith(
        f"not_quantized: {what} were not quantized, although quant `{quant}` requires it "
        "(projection t = "
    )


def message_of(subject, call):
    return message(projections(subject, [call]), subject.case.quant)


def test_what_a_scheme_leaves_as_it_is_is_not_looked_for():
    everything = tuple(VARIANTS)
    assert variants_of(Scheme(weights="fp8_block", activations="fp8_group")) == everything
    assert variants_of(Scheme(weights="fp8_block", activations="model")) == ("weights",)
    assert variants_of(Scheme(weights="model", activations="fp8_group")) == everything[1:4]
    assert variants_of(Scheme(weights="model", activations="model")) == ()


def test_where_noise_explains_it_nothing_is_said():
    subject, call = first_call("fp8_block", 8)
    wrong = of_variant(subject, call, "weights")
    assert message_of(subject, wrong) is not None
    loud = dataclasses.replace(wrong.answer, variance=wrong.answer.out.square().sum(dim=1) * 9)
    assert message_of(subject, dataclasses.replace(wrong, answer=loud)) is None


def test_flips_explain_what_is_like_it_but_not_the_very_same():
    """On Hopper so many fp8 codes are within reach of a tie that they could explain anything."""
    subject, call = first_call("fp8_block", 8)
    wrong = of_variant(subject, call, "intermediates")
    loud = dataclasses.replace(wrong.answer, flips=wrong.answer.out.square().sum(dim=1) * 9)
    wrong = dataclasses.replace(wrong, answer=loud)
    text = message_of(subject, wrong)
    assert text is not None
    assert text.startswith("not_quantized: intermediates were not quantized, although quant `fp8_")
    assert "; leaving them unquantized explains all but 0.0" in text
    between = call.output.out.float().lerp(wrong.output.out.float(), 0.7).bfloat16()
    assert message_of(subject, with_output(wrong, between)) is None
    calm = with_output(call, between)  # and where flips cannot, it is named as well
    assert message_of(subject, calm).startswith("not_quantized: intermediates were")


def test_of_a_wrong_output_only_a_close_fit_is_said():
    """A scale of the intermediate that was too small had a projection of -.14."""
    subject, call = first_call("fp8_block", 8)
    wrong = of_variant(subject, call, "intermediates")
    between = call.output.out.float().lerp(wrong.output.out.float(), 0.7).bfloat16()
    part = with_output(call, between)
    rows = Finding(check="output_rows", text="8 of 8 rows wrong", call=0)

    def said(one, *before):
        seen = Observation(subject=subject, context=None, calls=[one], findings=before)
        return [finding.text for finding in quantization_applied.findings(seen)]

    (text,) = said(part)
    assert text.startswith("not_quantized: intermediates")
    assert said(part, rows) == []
    (text,) = said(wrong, rows)
    assert text.startswith("not_quantized: intermediates")


def test_an_error_of_another_kind_is_not_taken_for_it():
    subject, call = first_call("int8_channel", 8)
    for wrong in (call.output.out * 1.02, call.output.out.roll(1, dims=1)):
        assert message_of(subject, with_output(call, wrong)) is None


def test_a_projection_far_from_zero_and_one_is_another_mistake():
    """An inverted global scale gave t = -0.55, and it was said that nothing was quantized."""
    subject, call = first_call("int8_channel", 8)
    wrong = of_variant(subject, call, "activations").output.out
    assert message_of(subject, with_output(call, wrong)) is not None
    beyond = call.output.out.float().lerp(wrong.float(), 1.6).bfloat16()
    assert message_of(subject, with_output(call, beyond)) is None


def test_no_share_without_a_scheme_or_without_tokens():
    assert projections(*_listed(first_call("none", 8))) == ()
    subject, call = first_call("fp8_block", 8)
    x = call.tokens.x[:0]
    empty = dataclasses.replace(call, tokens=dataclasses.replace(call.tokens, x=x))
    assert projections(subject, [empty]) == ()


def test_activations_left_alone_in_the_stack(monkeypatch):
    monkeypatch.setattr(
        Int8Channel, "quantize_input", lambda self, x, a1: Activations(codes=x.float())
    )
    found = run(nothing, case(quant="int8_channel", m=8).id)
    assert found.verdict is Verdict.FAILED
    named = [text for text in found.messages if text.startswith("not_quantized: ")]
    assert len(named) == 1
    assert named[0].startswith("not_quantized: activations were not quantized")
