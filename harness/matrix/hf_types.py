"""What the `model_type` of a `config.json` says that its fields do not: a table of types.

Defaults are those of the package transformers 5.24; where the code computes something whatever the
config says, the row says it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.matrix.model_facts import Dtype


@dataclass(frozen=True, kw_only=True)
class ModelType:
    """Say what a model of this type computes; None where the config must say it."""

    scoring: str | None = None
    renormalize: bool | None = None
    bias: bool | None = None
    weights_input: bool = False
    activation: str | None = None  # whatever hidden_act says
    gated: bool = True
    expert_bias: bool = False
    shared: int = 0  # shared experts of a routed expert's size


_SOFTMAX = ModelType(scoring="softmax", renormalize=False, bias=False)
_SIGMOID_BIAS = ModelType(scoring="sigmoid", renormalize=True, bias=True)
_LLAMA4 = ModelType(scoring="sigmoid", renormalize=False, bias=False, weights_input=True, shared=1)
TYPES = {
    "mixtral": ModelType(scoring="softmax", renormalize=True, bias=False),
    "olmoe": _SOFTMAX,
    "qwen2_moe": _SOFTMAX,
    "qwen3_moe": _SOFTMAX,
    "qwen3_next": ModelType(scoring="softmax", renormalize=True, bias=False),
    "deepseek_v3": _SIGMOID_BIAS,
    "kimi_k2": _SIGMOID_BIAS,
    "glm4_moe": _SIGMOID_BIAS,
    "minimax_m2": _SIGMOID_BIAS,
    "nemotron_h": ModelType(scoring="sigmoid", renormalize=True, bias=True, gated=False),
    "gpt_oss": ModelType(
        scoring="softmax",
        renormalize=True,
        bias=False,
        activation="swiglu_clamped",
        expert_bias=True,
    ),
    "llama4": _LLAMA4,
    "llama4_text": _LLAMA4,
}
# Names of scoring functions -> rows of moe.routers.
SCORING = {"sqrtsoftplus": "softplus_sqrt"}
# Names of activation functions -> rows of moe.activations.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu": "gelu",
    "relu2": "relu2",
}
DTYPES: dict[str, Dtype] = {"bfloat16": "bf16", "float16": "fp16", "float32": "f32"}
# Fields with a word about experts in their name that change nothing of what one layer computes:
# which layers have experts, training, precision of the logits, and how they are served.
HARMLESS = frozenset(
    {
        *("output_router_logits", "router_jitter_noise", "router_aux_loss_coef"),
        *("router_z_loss_coef", "moe_aux_loss_coeff", "moe_router_bias_update_rate"),
        *("moe_layer_freq", "moe_layers", "interleave_moe_layer_step", "moe_layer_start_index"),
        *("moe_layer_end_index", "moe_layer_interval", "moe_router_dtype", "ep_size"),
        *("experts_implementation", "_experts_implementation", "use_grouped_topk"),
        *("shared_moe_mode", "index_topk", "index_topk_freq"),
    }
)
