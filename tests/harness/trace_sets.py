"""Write small data sets of FlashInfer Trace, right ones and wrong ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

if TYPE_CHECKING:
    from pathlib import Path

T, K, N, E = 20, 256, 96, 8
RENORM, DEEPSEEK, ROUTED = "moe_renorm_topk2", "moe_ds_routing_topk2_ng4_kg2", "moe_bf16_topk3"
RUNS = "raise SystemExit('the reference code of a definition was run')\ndef run(): pass\n"


def spec(dtype: str, *axes: str) -> dict[str, Any]:
    return {"shape": list(axes) or None, "dtype": dtype}


def definition(name: str, inputs: dict[str, Any], **changes: Any) -> dict[str, Any]:
    sizes = {"num_experts": E, "hidden_size": K, "intermediate_size": N, "num_hidden_blocks": 2}
    const = {axis: {"type": "const", "value": size} for axis, size in sizes.items()}
    return {
        "name": name,
        "op_type": "moe",
        "axes": {"seq_len": {"type": "var"}, "top_k": {"type": "const", "value": 3}, **const},
        "inputs": inputs,
        "outputs": {"output": spec("bfloat16", "seq_len", "hidden_size")},
        "reference": RUNS,
        **changes,
    }


def tensors(name: str) -> dict[str, torch.Tensor]:
    """Return the recorded tensors of a definition by input."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(T, K, generator=draw).bfloat16()
    logits = torch.randn(T, E, generator=draw)
    if name == RENORM:
        return {"hidden_states": x, "routing_logits": logits.bfloat16()}
    if name == ROUTED:
        weights, ids = logits.softmax(1).topk(3)
        return {"hidden_states": x, "topk_ids": ids.int(), "topk_weights": weights}
    blocks = x.float().view(T, 2, 128)
    scales = blocks.abs().amax(2) / 448
    codes = (blocks / scales[..., None]).view(T, K).to(torch.float8_e4m3fn)
    return {
        "hidden_states": codes,
        "hidden_states_scale": scales.T.contiguous(),
        "routing_logits": logits,
        "routing_bias": torch.randn(E, generator=draw).bfloat16(),
    }


def definitions() -> dict[str, dict[str, Any]]:
    states, logits = ("seq_len", "hidden_size"), ("seq_len", "num_experts")
    weights = {"w2": spec("bfloat16", "num_experts", "hidden_size", "intermediate_size")}
    renorm = {
        "hidden_states": spec("bfloat16", *states),
        "routing_logits": spec("bfloat16", *logits),
    }
    routed = {
        "hidden_states": spec("bfloat16", *states),
        "topk_ids": spec("int32", "seq_len", "top_k"),
        "topk_weights": spec("float32", "seq_len", "top_k"),
    }
    deepseek = {
        "hidden_states": spec("float8_e4m3fn", *states),
        "hidden_states_scale": spec("float32", "num_hidden_blocks", "seq_len"),
        "routing_logits": spec("float32", *logits),
        "routing_bias": spec("bfloat16", "num_experts"),
        "routed_scaling_factor": spec("float32"),
    }
    made = {RENORM: renorm, DEEPSEEK: deepseek, ROUTED: routed}
    result = {name: definition(name, inputs | weights) for name, inputs in made.items()}
    for name in (RENORM, DEEPSEEK):  # whose names alone say how many experts a token takes
        del result[name]["axes"]["top_k"]
    result["gemm"] = definition("gemm", {"x": spec("bfloat16", *states)}, op_type="gemm")
    return result


def line(name: str, uuid: str = "a-1") -> dict[str, Any]:
    """Return a line of workloads, all recorded tensors of which are in one file."""
    inputs = {"w2": {"type": "random"}} | {
        key: {"type": "safetensors", "path": f"./blob/{name}.safetensors", "tensor_key": key}
        for key in tensors(name)
    }
    if name == DEEPSEEK:
        inputs["routed_scaling_factor"] = {"type": "scalar", "value": 2.5}
    return {
        "definition": name,
        "workload": {"uuid": uuid, "axes": {"seq_len": T}, "inputs": inputs},
        "solution": None,
        "evaluation": None,
    }


def write(
    root: Path, *names: str, lines: list[Any] | None = None, changed: dict[str, Any] | None = None
) -> Path:
    """Write a data set with a workload for each name; lines, changed: in place of the right ones.

    changed: definitions by name.
    """
    for folder in ("definitions/moe", "workloads/moe", "blob"):
        (root / folder).mkdir(parents=True)
    for name, data in (definitions() | (changed or {})).items():
        (root / f"definitions/moe/{name}.json").write_text(json.dumps(data))
    for name in (RENORM, DEEPSEEK, ROUTED):
        save_file(tensors(name), root / f"blob/{name}.safetensors")
    text = [one if isinstance(one, str) else json.dumps(one) for one in lines or map(line, names)]
    (root / "workloads/moe/all.jsonl").write_text("\n".join(text) + "\n")
    return root
