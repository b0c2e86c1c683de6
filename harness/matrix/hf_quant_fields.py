"""List the fields of a `quantization_config` that are read, or change no number of the experts.

A field that is neither is an error: it may change what a checkpoint's codes mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.matrix.hf_fields import shown

if TYPE_CHECKING:
    from harness.matrix.hf_fields import Fields

# Which modules are left out, what wrote the file, and what concerns the cache of keys and values.
_COMMON = (
    *("quant_method", "modules_to_not_convert", "ignore", "ignored_layers", "exclude_modules"),
    *("exclude", "version", "producer", "kv_cache_scheme", "kv_cache_quant_algo", "lm_head"),
)
_GPTQ = (
    *("bits", "group_size", "sym", "desc_act", "checkpoint_format", "static_groups", "meta"),
    *("true_sequential", "damp_percent", "damp_auto_increment", "block_name_to_quantize"),
    *("model_file_base_name", "model_name_or_path", "quant_method", "pack_dtype", "tokenizer"),
    *("dataset", "batch_size", "pad_token_id", "use_cuda_fp16", "use_exllama", "exllama_config"),
    *("max_input_length", "model_seqlen", "module_name_preceding_first_block", "backend"),
    *(
        "cache_block_outputs",
        "modules_in_block_to_quantize",
        "disable_exllama",
        "format",
        "act_group_aware",
    ),
)
_KNOWN = {
    "fp8": ("activation_scheme", "weight_block_size", "fmt", "scale_fmt", "dequantize"),
    "gptq": _GPTQ,
    "awq": (
        *("bits", "w_bit", "group_size", "q_group_size", "zero_point", "do_fuse", "backend"),
        *("exllama_config", "fuse_max_seq_len", "modules_to_fuse", "format"),
    ),
    "mxfp4": ("dequantize",),
    "modelopt": (
        *("quant_algo", "group_size", "config_groups", "quantized_layers", "has_zero_point"),
        *("pre_quant_scale", "awq_block_size"),
    ),
    "compressed-tensors": (
        *("config_groups", "format", "quantization_status", "global_compression_ratio"),
        *("sparsity_config", "transform_config", "run_compressed"),
    ),
    "quark": (
        *("global_quant_config", "layer_quant_config", "layer_type_quant_config", "algo_config"),
        *("export", "kv_cache_group", "kv_cache_quant_config", "kv_cache_post_rope", "quant_mode"),
        *(
            "softmax_quant_spec",
            "min_kv_scale",
            "log_severity_level",
            "pack_method",
            "weight_format",
        ),
    ),
}


def check_fields(quant: Fields, method: str) -> None:
    """Raise UsageError for a field with a value that is not known of this method."""
    known = _KNOWN.get(method)
    if known is None:
        return  # no row has the method, so its cases are refused with its name
    for name, value in quant.values.items():
        if value not in (None, [], {}) and name not in (*_COMMON, *known):
            raise quant.error(
                f"quantization_config has {name} = {shown(value)}, which is not known of "
                f"{method} and may change what its codes mean: remove the field if it does not, or "
                "describe the model in a file of its own (docs/models.md)"
            )
