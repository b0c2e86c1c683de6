"""The first function and factor are the right ones; what differs least comes first."""

from __future__ import annotations

import pytest
import torch

from harness.diagnosis.activation_formulas import factors, formulas, functions, in_steps
from moe.activations import ACTIVATIONS
from moe.reference.activation import activation_of

NAMES = ["silu", "gelu", "relu2", "swiglu_clamped"]
GATE, UP = 6 * torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
def test_the_first_function_and_factor_are_right(name):
    activation = activation_of(name)
    (of_gate, function), (of_up, factor) = functions(activation)[0], factors(activation)[0]
    assert (of_gate, of_up) == ("", "")
    assert torch.equal(function(GATE) * factor(UP), activation(GATE, UP))


@pytest.mark.parametrize("name", NAMES)
def test_what_differs_least_comes_first(name):
    texts = [text for text, _ in formulas(activation_of(name), GATE, UP)]
    counts = [1 + text.count(" and ") for text in texts[2:]]  # the first two exchange gate and up
    assert counts == sorted(counts)
    assert len({*texts}) == len(texts)
    single = [text for text, _ in formulas(activation_of(name), GATE, UP, 1)]
    assert len(single) == 2 + counts.count(1)


def test_a_function_without_up_has_no_factor():
    texts = [text for text, _ in formulas(activation_of("silu_no_mul"), GATE, None)]
    assert not [text for text in texts if " up " in f" {text} "]
    assert "the function of the gate is relu" in texts


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_steps_of_a_sigmoid_are_rounded_one_by_one(dtype):
    torch_dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    row, gate, up = ACTIVATIONS.row("swiglu_clamped"), GATE.to(torch_dtype), UP.to(torch_dtype)
    limited = gate.clamp(max=row.limit)
    value = limited * torch.sigmoid(row.alpha * limited)
    value = value * (up.clamp(-row.limit, row.limit) + row.beta)
    steps = in_steps(activation_of("swiglu_clamped"), gate.float(), up.float(), dtype)
    assert torch.equal(steps, value.float())
    silu = in_steps(activation_of("silu_no_mul"), gate.float(), None, dtype)
    assert torch.equal(silu, (gate * torch.sigmoid(gate)).float())
    assert in_steps(activation_of("gelu"), gate.float(), up.float(), dtype) is None
