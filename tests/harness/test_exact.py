"""Exact mode: right layers give the same bits in any order, and one bit more or less fails."""

from __future__ import annotations

import pytest
import torch
from stage_faults import case, nothing, run

from harness import inputs, parallel_launch
from harness.bitwise import is_bitwise
from harness.case import MoETestConfig
from harness.result import Verdict
from moe.experts.torch_loop import TorchLoopExperts
from moe.quant import QUANT
from moe.reference.formats import on_grid, weight_values
from moe.spec import FORMATS

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")


def exactly(**fields) -> MoETestConfig:
    return case(**{"exact": True, "m": 6, "k": 256, **fields})


def test_the_token_in_ids():
    assert exactly().id.endswith("-exact")
    assert MoETestConfig.from_id(exactly().id) == exactly()
    assert "exact" not in case().id


@pytest.mark.parametrize("fields", [{}, {"shared_experts": 1}, {"dtype": "fp16"}, {"top_k": 4}])
@pytest.mark.parametrize("quant", list(QUANT.rows))
def test_right_layers_match_bit_for_bit(quant, fields):
    found = run(nothing, exactly(quant=quant, **fields).id)
    assert (found.verdict, found.messages) == (Verdict.PASSED, ())
    assert found.metrics["rel_rms"] == 0.0
    assert not [name for name, word in found.battery.items() if word.startswith("missed")]


@pytest.mark.parametrize(
    ("experts", "quant"),
    [("torch_grouped", "none"), ("triton", "none"), ("triton", "fp8_block")],
)
def test_other_orders_of_summing_give_the_same_bits(experts, quant):
    found = run(nothing, exactly(experts=experts, quant=quant).id)
    assert (found.verdict, found.messages) == (Verdict.PASSED, ())
    assert found.metrics["rel_rms"] == 0.0


@pytest.mark.parametrize("quant", list(QUANT.rows))
def test_inputs_are_sparse_and_lose_nothing_when_quantized(quant):
    one = exactly(quant=quant)
    x = inputs.tokens(one, 0, 32, CPU).x.float()
    w13, w2 = (w.float() for w in inputs.expert_weights(one, 1, CPU))
    assert float((x == 0).float().mean()) > 0.4
    assert float((w13 == 0).float().mean()) > 0.75
    assert float((w2 == 0).float().mean()) > 0.75
    fmt = FORMATS[one.problem.scheme.weights]
    for w in (w13, w2):
        assert torch.equal(weight_values(w, fmt), w)
        assert torch.equal(on_grid(w, "bf16"), w)


def test_gates_are_zero_or_so_large_that_silu_is_the_identity():
    one = exactly()
    x = inputs.tokens(one, 0, 32, CPU).x.float()
    for e in range(one.num_experts):
        gate = x @ inputs.expert_weights(one, e, CPU)[0][: one.n].float().T
        assert float(gate.min()) >= 0.0
        assert float(gate[gate > 0].min()) >= 32
        assert torch.equal(torch.nn.functional.silu(gate), gate)
        assert float((gate > 0).float().mean()) > 0.3


def test_scales_differ_so_that_a_shifted_one_shows():
    one = exactly(quant="fp8_block", n=512)
    w13 = inputs.expert_weights(one, 0, CPU)[0].float()
    largest = w13.view(8, 128, 2, 128).abs().amax(dim=(1, 3))
    assert set(largest.flatten().tolist()) == {448.0, 896.0}


def test_one_step_of_one_element_fails(monkeypatch):
    real = TorchLoopExperts.apply

    def apply(self, x, routing):
        out = real(self, x, routing)
        row, column = (int(i) for i in (out != 0).nonzero()[0])
        out.view(torch.int16)[row, column] += 1
        return out

    monkeypatch.setattr(TorchLoopExperts, "apply", apply)
    right_elsewhere = run(nothing, case(m=6).id)
    assert not any("rows wrong" in text for text in right_elsewhere.messages)
    found = run(nothing, exactly().id)
    assert found.verdict is Verdict.FAILED
    assert "1 of 6 rows wrong (0)" in found.messages[0]
    named = next(text for text in found.messages if text.startswith("stage "))
    assert named.startswith("stage combine: 1 of ")


@pytest.mark.parametrize(
    ("fields", "bitwise"),
    [
        ({}, True),
        ({"exact": False}, False),
        ({"top_k": 3}, False),  # a third is no float
        ({"num_experts": 16, "top_k": 16}, False),
        ({"num_experts": 8, "top_k": 8}, True),
        ({"num_experts": 8, "top_k": 8, "shared_experts": 1}, False),
        ({"shared_experts": 2}, False),
        ({"n": 8}, False),
        ({"quant": "int8_channel", "n": 132}, False),  # a shard without its largest values
        ({"quant": "none", "n": 132}, True),
        ({"quant": "int8_channel", "n": 72, "tp_size": 2}, False),
        ({"quant": "int8_channel", "n": 72, "tp_size": 2, "use_ep": True}, True),
    ],
)
def test_where_bits_are_not_promised_the_ordinary_bounds_judge(fields, bitwise):
    one = exactly(**fields)
    assert is_bitwise(one) is bitwise
    if not bitwise and one.world_size == 1 and one.exact and one.n > 8 and one.quant == "none":
        found = run(nothing, one.id)
        assert (found.verdict, found.messages) == (Verdict.PASSED, ())


LAYOUTS = [
    {"tp_size": 2, "shared_experts": 1},
    {"tp_size": 2, "use_ep": True, "sequence_parallel": True, "quant": "fp8_tensor"},
    {"dp_size": 2, "use_ep": True, "quant": "fp8_tensor_dynamic", "tokens": "ragged"},
    {"dp_size": 2, "n": 256, "quant": "fp8_block", "top_k": 4},
    {"dp_size": 2, "quant": "int8_channel", "shared_experts": 1},
]


def run_all(ids):
    return [run(nothing, text, world_size=2) for text in ids]


def test_every_layout_gives_the_same_bits():
    ids = [exactly(**fields).id for fields in LAYOUTS]
    for results in parallel_launch(2, run_all, ids, timeout=120):
        for text, found in zip(ids, results, strict=True):
            assert (found.verdict, found.messages) == (Verdict.PASSED, ()), text
            assert found.metrics.get("rel_rms", 0.0) == 0.0
