"""Workloads recorded from a running layer: what is written, and that it runs again."""

import json

import pytest
import torch
from torch import nn

from harness.errors import UsageError
from harness.fixtures import recorded_files
from harness.matrix.layout_words import parse_layouts
from harness.matrix.traces.trace_cases import cases_of
from harness.matrix.traces.trace_folder import read_folder
from harness.testing.record import record

E, K, N, TOP_K = 6, 32, 16, 2


class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(E, K).bfloat16())

    def forward(self, x):
        logits = nn.functional.linear(x, self.weight)
        weights, ids = logits.float().softmax(1).topk(TOP_K)
        return logits, weights, ids


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.down_proj = nn.Parameter(torch.zeros(E, K, N).bfloat16())

    def forward(self, hidden_states, ids, weights):
        return hidden_states * weights.sum(dim=1, keepdim=True)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.experts = Gate(), Experts()

    def forward(self, x):
        _, weights, ids = self.gate(x)
        return self.experts(x, ids=ids, weights=weights)


def test_each_call_is_a_workload_that_is_read_again(tmp_path):
    block, x = Block(), torch.randn(20, K).bfloat16()
    with torch.no_grad(), record(block, tmp_path) as uuids:
        block(x)
        block(x[:0])
        block(x[:3])
    block(x)
    folder = read_folder(tmp_path)
    assert [w.line.workload.uuid for w in folder.workloads] == uuids
    assert len(uuids) == 2
    first, second = cases_of(folder.workloads, layouts=parse_layouts("tp:1"))
    assert (first.m, second.m) == (20, 3)
    assert (first.n, first.k, first.num_experts, first.top_k) == (N, K, E, TOP_K)
    try:
        recorded_files.use_folder(str(tmp_path))
        recorded = recorded_files.recorded_of(first, torch.device("cpu"))
    finally:
        recorded_files.use_folder(None)
    _, weights, ids = block.gate(x)
    assert torch.equal(recorded.x, x.float())
    assert torch.equal(recorded.logits.topk(TOP_K).indices.sort(1).values, ids.sort(1).values)
    softmax = recorded.logits.gather(1, ids).softmax(1)
    assert torch.allclose(softmax, weights / weights.sum(1, keepdim=True), rtol=1e-5)


def test_router_logits_are_recorded_if_the_gate_returns_them(tmp_path):
    block, x = Block(), torch.randn(4, K).bfloat16()
    with record(block, tmp_path):
        block(x)
        block.gate.forward = lambda x: Gate.forward(block.gate, x)[1:]
        block.forward = lambda x: block.experts(x, *reversed(block.gate(x)))
        block(x)
    assert sorted(path.stem for path in (tmp_path / "definitions/moe").iterdir()) == [
        "moe_bf16_topk2_e6_h32_i16",
        "moe_bf16_topk2_e6_h32_i16_logits",
    ]


def test_later_calls_than_max_calls_are_left_out_and_a_recording_adds_to_another(tmp_path):
    block, x = Block(), torch.randn(4, K).bfloat16()
    for _ in range(2):
        with record(block, tmp_path, max_calls=2) as uuids:
            for _ in range(3):
                block(x)
        assert len(uuids) == 2
    assert len(read_folder(tmp_path).workloads) == 4


def test_another_definition_is_not_overwritten(tmp_path):
    block, x = Block(), torch.randn(4, K).bfloat16()
    with record(block, tmp_path):
        block(x)
    (file,) = (tmp_path / "definitions/moe").iterdir()
    file.write_text("{}")
    with pytest.raises(UsageError, match="is another definition"), record(block, tmp_path):
        block(x)
    assert file.read_text() == "{}"
    assert not block.experts._forward_pre_hooks


def test_other_modules_are_refused(tmp_path):
    error = r"cannot record Linear: it needs a module `experts`"
    with pytest.raises(UsageError, match=error), record(nn.Linear(2, 2), tmp_path):
        pass
    block = Block()
    block.experts.forward = lambda x: x
    error = r"these get torch.float32 \[4, 32\]"
    with pytest.raises(UsageError, match=error), record(block, tmp_path):
        block.experts(torch.zeros(4, K))
    assert list(tmp_path.iterdir()) == []


def test_flashinfer_bench_reads_a_recording(tmp_path):
    data = pytest.importorskip("flashinfer_bench.data", reason="not installed: the extra subjects")
    block = Block()
    with record(block, tmp_path) as uuids:
        block(torch.randn(4, K).bfloat16())
    theirs = data.TraceSet.from_path(str(tmp_path))
    (traces,) = theirs.workloads.values()
    assert [trace.workload.uuid for trace in traces] == uuids
    assert list(theirs.definitions) == list(theirs.workloads)


def test_a_block_of_transformers_is_recorded_on_real_text(tmp_path):
    """A small model with weights of chance: its tokens are bytes of this docstring."""
    transformers = pytest.importorskip("transformers", reason="not installed: the extra subjects")
    config = transformers.Qwen3MoeConfig(
        vocab_size=256,
        hidden_size=64,
        num_hidden_layers=2,
        head_dim=16,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=64,
        num_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
    )
    model = transformers.Qwen3MoeForCausalLM(config).bfloat16().eval()
    text = test_a_block_of_transformers_is_recorded_on_real_text.__doc__.encode()
    with torch.no_grad(), record(model.model.layers[1].mlp, tmp_path):
        model(torch.tensor([list(text)]))
    (case,) = cases_of(read_folder(tmp_path).workloads, layouts=parse_layouts("tp:1"))
    sizes = (case.m, case.n, case.k, case.num_experts, case.top_k)
    assert sizes == (len(text), 32, 64, 8, 2)
    header = json.loads((tmp_path / "workloads/moe").iterdir().__next__().read_text())
    assert header["workload"]["inputs"]["gating_output"]["type"] == "safetensors"
