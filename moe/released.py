"""Name the packages whose released code can be tested, and what is called of each. Torch-free.

An adapter (`moe.experts.transformers_experts`, ...) calls the package's own code and copies none of
it. docs/released-backends.md says where each of them rounds.
"""

from __future__ import annotations

from dataclasses import replace

from moe.packages import Package, release, version
from moe.reason import Reason
from moe.spec import LayerSpec, Platform, reads

# Row of `moe.activations` -> its name in a transformers configuration.
ACTIVATION_NAMES = {"silu": "silu", "gelu_tanh": "gelu_pytorch_tanh"}

_MODELS = "transformers.models"
_EXPERTS = (
    f"{_MODELS}.qwen3_moe.modeling_qwen3_moe:Qwen3MoeExperts(config)",
    f"{_MODELS}.qwen3_moe.modeling_qwen3_moe:Qwen3MoeExperts.gate_up_proj",
    f"{_MODELS}.qwen3_moe.modeling_qwen3_moe:Qwen3MoeExperts.down_proj",
    f"{_MODELS}.qwen3_moe.modeling_qwen3_moe:"
    "Qwen3MoeExperts.forward(hidden_states, top_k_index, top_k_weights)",
    f"{_MODELS}.qwen3_moe.configuration_qwen3_moe:Qwen3MoeConfig.moe_intermediate_size",
    "transformers.integrations.moe:"
    "batched_mm_experts_forward(self, hidden_states, top_k_index, top_k_weights)",
    "transformers.integrations.moe:"
    "grouped_mm_experts_forward(self, hidden_states, top_k_index, top_k_weights)",
)
# Imported together, so that a plan starts one process for all of them.
_IMPORTED = tuple(f"{_MODELS}.{m}.modeling_{m}" for m in ("mixtral", "qwen3_moe", "olmoe"))
_MORE_IMPORTED = tuple(
    f"{_MODELS}.{m}.modeling_{m}" for m in ("deepseek_v3", "glm4_moe", "llama4", "gpt_oss")
)
_SENTINEL_KNOWN = "5.18"  # the first version whose eager experts know the id of an absent expert


def _transformers(*calls: str) -> Package:
    return Package(
        distribution="transformers",
        module="transformers",
        at_least="5.17",
        why="the oldest version that these adapters were tested with",
        calls=calls,
        imports=_IMPORTED,
    )


def _block(model: str, prefix: str, *fields: str) -> Package:
    """Return what the adapter of a model's MoE block calls. fields: of its configuration."""
    modeling = f"{_MODELS}.{model}.modeling_{model}:{prefix}"
    config = f"{_MODELS}.{model}.configuration_{model}:{prefix}Config"
    return _transformers(
        f"{modeling}SparseMoeBlock(config)",
        f"{modeling}SparseMoeBlock.gate",
        f"{modeling}SparseMoeBlock.experts",
        f"{modeling}SparseMoeBlock.forward(hidden_states)",
        f"{modeling}TopKRouter.weight",
        f"{modeling}Experts(config)",
        f"{modeling}Experts.gate_up_proj",
        f"{modeling}Experts.down_proj",
        f"{modeling}Experts.forward(hidden_states, top_k_index, top_k_weights)",
        *(f"{config}.{name}" for name in (*fields, "hidden_size", "num_experts_per_tok")),
    )


def _shared_block(
    model: str, prefix: str, parts: tuple[str, ...], *fields: str, since: str = "5.24"
) -> Package:
    """Return what the adapter of a block with shared experts or biases calls.

    parts: of its modeling file; fields: of its configuration, both without the classes' prefix.
    """
    modeling = f"{_MODELS}.{model}.modeling_{model}:{prefix}"
    config = f"{_MODELS}.{model}.configuration_{model}:{prefix}Config"
    parts = (*parts, "Experts(config)", "Experts.gate_up_proj", "Experts.down_proj")
    fields = (*fields, "hidden_size", "num_experts_per_tok")
    calls = (*(modeling + part for part in parts), *(f"{config}.{name}" for name in fields))
    return replace(_transformers(*calls), imports=_MORE_IMPORTED, at_least=since)


TRANSFORMERS_EXPERTS = _transformers(*_EXPERTS)
MIXTRAL = _block("mixtral", "Mixtral", "intermediate_size", "num_local_experts")
QWEN3_MOE = _block(
    "qwen3_moe", "Qwen3Moe", "moe_intermediate_size", "num_experts", "norm_topk_prob"
)
OLMOE = _block("olmoe", "Olmoe", "intermediate_size", "num_experts", "norm_topk_prob")
_GROUPED_PARTS = (
    *("MoE(config)", "MoE.gate", "MoE.experts", "MoE.shared_experts", "MoE.forward(hidden_states)"),
    *("TopkRouter.weight", "TopkRouter.e_score_correction_bias"),
    "MLP(config, intermediate_size)",
    "Experts.forward(hidden_states, top_k_index, top_k_weights)",
)
_GROUPED_FIELDS = (
    *("moe_intermediate_size", "n_routed_experts", "n_shared_experts", "n_group", "topk_group"),
    *("norm_topk_prob", "routed_scaling_factor"),
)
DEEPSEEK_V3 = _shared_block("deepseek_v3", "DeepseekV3", _GROUPED_PARTS, *_GROUPED_FIELDS)
GLM4_MOE = _shared_block("glm4_moe", "Glm4Moe", _GROUPED_PARTS, *_GROUPED_FIELDS)
LLAMA4 = _shared_block(
    *("llama4", "Llama4Text"),
    ("Moe(config)", "Moe.router", "Moe.shared_expert", "Moe.forward(hidden_states)"),
    *("intermediate_size", "num_local_experts"),
)
GPT_OSS = _shared_block(
    *("gpt_oss", "GptOss"),
    (
        *("MLP(config)", "MLP.router", "MLP.experts", "MLP.forward(hidden_states)"),
        *("TopKRouter.weight", "TopKRouter.bias"),
        *("Experts.gate_up_proj_bias", "Experts.down_proj_bias"),
        "Experts.forward(hidden_states, router_indices, routing_weights)",
    ),
    *("intermediate_size", "num_local_experts"),
)

_TITAN = "torchtitan.models.common"
_TITAN_EXPERTS = (
    f"{_TITAN}.moe:GroupedExperts.Config(dim, hidden_dim, num_experts)",
    *(f"{_TITAN}.moe:GroupedExperts.{name}" for name in ("w1_EFD", "w2_EDF", "w3_EFD")),
    f"{_TITAN}.moe:GroupedExperts.forward(x_RD, num_tokens_per_expert_E)",
    f"{_TITAN}.token_dispatcher:LocalTokenDispatcher.Config(num_experts, top_k)",
    f"{_TITAN}.token_dispatcher:LocalTokenDispatcher.dispatch"
    "(x_TD, topk_scores_TK, topk_expert_ids_TK, num_local_tokens_per_expert_E)",
    f"{_TITAN}.token_dispatcher:LocalTokenDispatcher.combine(routed_output_RD, metadata, x_TD)",
    f"{_TITAN}.token_dispatcher:LocalDispatchMetadata.token_indices_experts_sorted_N",
)


def _torchtitan(*calls: str) -> Package:
    return Package(
        distribution="torchtitan",
        module="torchtitan",
        at_least="0.3",
        why="the router's scores are applied in the dispatcher's combine since then",
        calls=(*_TITAN_EXPERTS, *calls),
        imports=(f"{_TITAN}.moe",),
    )


TORCHTITAN_EXPERTS = _torchtitan()
TORCHTITAN = _torchtitan(
    f"{_TITAN}.moe:MoE.Config(num_experts, routed_experts, router, load_balance_coeff, "
    "shared_experts)",
    f"{_TITAN}.moe:MoE.forward(x_BLD)",
    f"{_TITAN}.moe:RoutedExperts.Config(inner_experts, token_dispatcher)",
    f"{_TITAN}.moe:TokenChoiceTopKRouter.Config(num_experts, gate, top_k, score_func, route_norm)",
    f"{_TITAN}.linear:Linear.Config(in_features, out_features)",
    f"{_TITAN}.feed_forward:FeedForward.Config(w1, w2, w3)",
    f"{_TITAN}.token_dispatcher:AllToAllTokenDispatcher.Config",
    f"{_TITAN}.token_dispatcher:BaseEPTokenDispatcher.wire_meshes(ep_mesh)",
    "torchtitan.distributed.utils:get_spmd_backend()",
    "torchtitan.distributed.utils:set_spmd_backend(spmd_backend)",
)

_NATIVE = "sglang.srt.layers.moe.fused_moe_native"
SGLANG_EXPERTS = Package(
    distribution="sglang",
    module="sglang",
    at_least="0.5.23",
    why="the version whose arguments this adapter was written for",
    calls=(
        f"{_NATIVE}:moe_forward_native(layer, x, topk_output, moe_runner_config)",
        f"{_NATIVE}:fused_moe_forward_native(layer, dispatch_output)",
        "sglang.srt.layers.activation:SiluAndMul.forward_native(x)",
    ),
    imports=("moe.sglang_functions",),
)


_AO = "torchao.prototype"
_ARGUMENTS = "(A_data, A_scale, B_data, B_scale, offs, out_dtype, block_size)"
TORCHAO = Package(
    distribution="torchao",
    module="torchao",
    at_least="0.18",
    why="the version whose arguments this adapter was written for",
    calls=(
        f"{_AO}.moe_training.mxfp8_grouped_mm:_emulated_mxfp8_scaled_grouped_mm_2d_3d{_ARGUMENTS}",
        f"{_AO}.moe_training.nvfp4_grouped_mm:_emulated_nvfp4_scaled_grouped_mm_2d_3d{_ARGUMENTS}",
        f"{_AO}.mx_formats.mx_tensor:to_mx(data_hp, elem_dtype, block_size, scaling_mode)",
    ),
    imports=(f"{_AO}.moe_training.mxfp8_grouped_mm",),
)


@reads("layout")
def holds_all_experts(layer_spec: LayerSpec, _: Platform) -> Reason | None:
    """Refuse expert parallelism where a package's experts know no id of absent experts."""
    if not layer_spec.layout.use_ep:
        return None
    text = "knows no id of other ranks' experts, so that each rank must hold all of them"
    return Reason(code="layout_unsupported", text=text)


@reads("layout")
def eager_experts_know_the_sentinel(layer_spec: LayerSpec, _: Platform) -> Reason | None:
    """Refuse expert parallelism where transformers' eager experts take no id of absent experts."""
    number = version("transformers")
    if not layer_spec.layout.use_ep or number is None:
        return None
    if release(number) >= release(_SENTINEL_KNOWN):
        return None
    text = (
        f"transformers {number} is too old: its eager experts do not know the id of experts of "
        f"other ranks; expert parallelism needs transformers>={_SENTINEL_KNOWN}"
    )
    return Reason(code="package_too_old", text=text)


@reads("num_experts", "layout")
def experts_divide_evenly(layer_spec: LayerSpec, _: Platform) -> Reason | None:
    """Refuse expert parallelism over ranks that do not divide the experts."""
    ranks = len(layer_spec.layout.group("ep", 0))
    if layer_spec.num_experts % ranks == 0:
        return None
    text = f"splits experts evenly, and {ranks} ranks do not divide {layer_spec.num_experts}"
    return Reason(code="experts_uneven", text=text)


@reads("num_experts", "layout", "router_groups")
def groups_have_two_experts(layer_spec: LayerSpec, platform: Platform) -> Reason | None:
    """Refuse groups of one expert, and what `experts_divide_evenly` refuses.

    transformers scores a group by the sum of its two best experts, and `topk` has no second one.
    """
    experts = layer_spec.num_experts // layer_spec.router_groups
    if experts < 2:
        text = (
            f"scores a group of experts by its two best, and {layer_spec.num_experts} experts in "
            f"{layer_spec.router_groups} groups are {experts} each; have at least two"
        )
        return Reason(code="router_unsupported", text=text)
    return experts_divide_evenly(layer_spec, platform)


@reads("num_experts", "layout")
def whole_experts_divide_evenly(layer_spec: LayerSpec, platform: Platform) -> Reason | None:
    """Refuse tensor parallelism inside experts, and what `experts_divide_evenly` refuses."""
    if layer_spec.layout.tp_size > 1 and not layer_spec.layout.use_ep:
        text = "transformers has no plan that splits its experts; spread them with `ep`"
        return Reason(code="layout_unsupported", text=text)
    return experts_divide_evenly(layer_spec, platform)


@reads("weights_input", "renormalize")
def weighs_inputs_only(layer_spec: LayerSpec, _: Platform) -> Reason | None:
    """Refuse a layer that weighs outputs or renormalises: Llama-4's block does neither."""
    if layer_spec.weights_input and not layer_spec.renormalize:
        return None
    text = "multiplies the experts' input by the score; set `weights_input` and `no_renorm`"
    return Reason(code="router_unsupported", text=text)
