"""Write down an MoE layer as a definition of FlashInfer Trace, with reference code as its text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Read by people and by flashinfer-bench. The harness never runs it.
_REFERENCE = """import torch


@torch.no_grad()
def run({names}):
    out = torch.zeros(hidden_states.shape, dtype=torch.float32, device=hidden_states.device)
    x = hidden_states.float()
    for e in range(w1.shape[0]):
        rows, slots = (topk_ids == e).nonzero(as_tuple=True)
        gate, up = (x[rows] @ w1[e].float().T).chunk(2, dim=1)
        y = (torch.nn.functional.silu(gate) * up) @ w2[e].float().T
        out.index_add_(0, rows, topk_weights[rows, slots, None].float() * y)
    return out.to(hidden_states.dtype)
"""


@dataclass(frozen=True, kw_only=True)
class RecordedLayer:
    """Say the shapes and dtypes of a layer, in the words of the format: `bfloat16`, `float32`.

    logits: dtype of the router logits; None if none are recorded.
    """

    hidden: int
    intermediate: int
    experts: int
    top_k: int
    dtype: str
    weights: str  # dtype of the router weights
    logits: str | None = None

    @property
    def name(self) -> str:
        """Return the name of the definition, which says its shapes."""
        kind = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}[self.dtype]
        sizes = f"e{self.experts}_h{self.hidden}_i{self.intermediate}"
        return f"moe_{kind}_topk{self.top_k}_{sizes}{'_logits' if self.logits else ''}"

    def definition(self) -> dict[str, Any]:
        """Return the definition as plain data. Weights are inputs, w1 being [gate; up]."""
        inputs = self._inputs()
        return {
            "name": self.name,
            "description": "A routed MoE layer with SiLU, recorded from a running model.",
            "op_type": "moe",
            "tags": ["status:unverified", "routing:pre-computed"],
            "axes": {
                "seq_len": {"type": "var", "description": "Number of tokens."},
                "num_experts": {"type": "const", "value": self.experts},
                "hidden_size": {"type": "const", "value": self.hidden},
                "intermediate_size": {"type": "const", "value": self.intermediate},
                "gemm1_out_size": {"type": "const", "value": 2 * self.intermediate},
                "top_k": {"type": "const", "value": self.top_k},
            },
            "inputs": inputs,
            "outputs": {"output": _spec(self.dtype, "seq_len", "hidden_size")},
            "constraints": ["gemm1_out_size == 2 * intermediate_size"],
            "reference": _REFERENCE.format(names=", ".join(inputs)),
        }

    def _inputs(self) -> dict[str, Any]:
        inputs = {"hidden_states": _spec(self.dtype, "seq_len", "hidden_size")}
        if self.logits is not None:
            inputs["gating_output"] = _spec(self.logits, "seq_len", "num_experts")
        return inputs | {
            "w1": _spec(self.dtype, "num_experts", "gemm1_out_size", "hidden_size"),
            "w2": _spec(self.dtype, "num_experts", "hidden_size", "intermediate_size"),
            "topk_weights": _spec(self.weights, "seq_len", "top_k"),
            "topk_ids": _spec("int32", "seq_len", "top_k"),
        }


def _spec(dtype: str, *axes: str) -> dict[str, Any]:
    return {"shape": list(axes), "dtype": dtype}
