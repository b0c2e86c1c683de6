"""The quantization of a checkpoint: rows of moe.quant where they are that, other names else."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.matrix.hf_fields import Fields
from harness.matrix.hf_quant import quant_of

BLOCKS = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"}
INT4 = {"weights": {"type": "int", "num_bits": 4, "strategy": "group"}}


def quant(config, file=None):
    fields = Fields(path="c.json", values={"quantization_config": config})
    whole_file = Fields(path="c.json", values={"quantization_config": file})
    return quant_of(fields, whole_file)


def compressed(activations=None, **weights):
    """A configuration of compressed-tensors with one group."""
    group = {"weights": weights, "input_activations": activations, "targets": ["Linear"]}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}


def args(kind, bits, strategy, **more):
    """One side of a group, with the fields that llm-compressor writes."""
    plain = {"actorder": None, "block_structure": None, "dynamic": False, "observer": "minmax"}
    return {**plain, "type": kind, "num_bits": bits, "strategy": strategy, **more}


def quark(weight, inputs, **more):
    """A configuration as Quark writes it; each side is (dtype, qscheme, is_dynamic)."""

    def side(stated):
        dtype, scheme, is_dynamic = stated
        is_mx = dtype == "fp4"
        return {
            "dtype": dtype,
            "is_dynamic": is_dynamic,
            "qscheme": scheme,
            "ch_axis": -1 if is_mx else 0,
            "group_size": 32 if is_mx else None,
            "symmetric": None if is_mx else True,
            "round_method": "half_even",
            "scale_type": "float",
            "scale_format": "e8m0" if is_mx else None,
            "scale_calculation_mode": "even" if is_mx else None,
            "mx_element_dtype": None,
            "observer_cls": "PerBlockMXObserver" if is_mx else "PerTensorMinMaxObserver",
            "is_scale_quant": False,
        }

    both = {"weight": side(weight), "input_tensors": inputs and side(inputs)}
    plain = {"output_tensors": None, "bias": None, "target_device": None}
    return {
        "quant_method": "quark",
        "quant_mode": "eager_mode",
        "algo_config": None,
        "exclude": ["lm_head", "model.layers.0.self_attn.q_proj", "model.layers.0.mlp.gate"],
        "export": {
            "kv_cache_group": [],
            "pack_method": "reorder",
            "weight_format": "real_quantized",
        },
        "global_quant_config": {**both, **plain},
        "layer_quant_config": {},
        "layer_type_quant_config": {},
        "kv_cache_quant_config": {},
        "softmax_quant_spec": None,
        "version": "0.10",
        **more,
    }


GPTQ = {
    "quant_method": "gptq",
    "bits": 4,
    "checkpoint_format": "gptq",
    "damp_percent": 0.01,
    "desc_act": False,
    "group_size": 128,
    "model_file_base_name": None,
    "model_name_or_path": None,
    "static_groups": False,
    "sym": True,
    "true_sequential": True,
}
AWQ = {
    "quant_method": "awq",
    "bits": 4,
    "group_size": 128,
    "modules_to_not_convert": None,
    "version": "gemm",
    "zero_point": True,
}
NVFP4 = args("float", 4, "tensor_group", group_size=16, symmetric=True)
NF4 = {
    "_load_in_4bit": True,
    "_load_in_8bit": False,
    "bnb_4bit_compute_dtype": "bfloat16",
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "llm_int8_threshold": 6.0,
    "load_in_4bit": True,
    "load_in_8bit": False,
    "quant_method": "bitsandbytes",
}
FP8_TOKEN = args("float", 8, "token", dynamic=True, symmetric=True)
MODELOPT = {
    "quant_method": "modelopt",
    "producer": {"name": "modelopt", "version": "0.29.0"},
    "kv_cache_quant_algo": "FP8",
    "exclude_modules": ["lm_head", "model.layers.0.mlp.gate", "model.layers.0.self_attn*"],
}


@pytest.mark.parametrize(
    ("config", "name"),
    [
        # Quark: MI300's fp8 per tensor and per token and channel, MI350's mxfp4.
        (quark(("fp8_e4m3", "per_tensor", False), ("fp8_e4m3", "per_tensor", False)), "fp8_tensor"),
        (
            quark(("fp8_e4m3", "per_tensor", False), ("fp8_e4m3", "per_tensor", True)),
            "fp8_tensor_dynamic",
        ),
        (
            quark(("fp8_e4m3", "per_channel", False), ("fp8_e4m3", "per_channel", True)),
            "fp8_channel",
        ),
        (quark(("fp4", "per_group", False), ("fp4", "per_group", True)), "mxfp4_mxfp4"),
        (quark(("fp4", "per_group", False), None), "mxfp4"),
        (quark(("fp6_e2m3", "per_group", False), None), "quark_fp6_e2m3_per_group"),
        # ModelOpt, with what its hf_quant_config.json has.
        ({**MODELOPT, "quant_algo": "FP8"}, "fp8_tensor"),
        ({**MODELOPT, "quant_algo": "NVFP4", "group_size": 16}, "nvfp4"),
        ({**MODELOPT, "quant_algo": "NVFP4", "group_size": 32}, "modelopt_nvfp4_32"),
        ({**MODELOPT, "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}, "fp8_channel"),
        ({**MODELOPT, "quant_algo": "MXFP8", "group_size": 32}, "mxfp8"),
        (
            {**MODELOPT, "quant_algo": "W4A16_AWQ", "group_size": 128, "has_zero_point": False},
            "int4_g128",
        ),
        ({**MODELOPT, "quant_algo": "MIXED_PRECISION"}, "modelopt_mixed_precision"),
        # llm-compressor's schemes.
        (compressed(FP8_TOKEN, **args("float", 8, "channel", symmetric=True)), "fp8_channel"),
        (
            compressed(args("float", 8, "tensor"), **args("float", 8, "tensor", symmetric=True)),
            "fp8_tensor",
        ),
        (
            compressed(
                args("float", 8, "group", group_size=128, dynamic=True),
                **args("float", 8, "block", block_structure=[128, 128]),
            ),
            "fp8_block",
        ),
        (
            compressed(
                args("int", 8, "token", dynamic=True, symmetric=True), **args("int", 8, "channel")
            ),
            "int8_channel",
        ),
        (compressed(FP8_TOKEN, **args("int", 4, "group", group_size=128)), "w4a8"),
        (compressed({**NVFP4, "dynamic": "local"}, **NVFP4), "nvfp4"),
        (
            compressed(
                args("float", 4, "group", group_size=32, dynamic=True),
                **args("float", 4, "group", group_size=32),
            ),
            "mxfp4_mxfp4",
        ),
        (
            compressed(None, **args("int", 4, "group", group_size=32, symmetric=False)),
            "int4_zp_g32",
        ),
        # Files of GPTQ and AWQ, and bitsandbytes, which no row is.
        (GPTQ, "int4_g128"),
        ({**GPTQ, "desc_act": True}, "gptq_4_desc_act"),
        (AWQ, "int4_zp_g128"),
        (
            {"quant_method": "awq", "w_bit": 4, "q_group_size": 64, "zero_point": True},
            "int4_zp_g64",
        ),
        (NF4, "bitsandbytes_nf4"),
        # fp8 of DeepSeek and Qwen, and with scales that are powers of two.
        ({**BLOCKS, "fmt": "e4m3"}, "fp8_block"),
        ({**BLOCKS, "fmt": "e4m3", "scale_fmt": "ue8m0"}, "fp8_block_128x128_ue8m0"),
        ({**BLOCKS, "fmt": "e5m2"}, "fp8_e5m2_block_128x128"),
        # gpt-oss.
        (
            {
                "quant_method": "mxfp4",
                "modules_to_not_convert": [
                    *("model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"),
                ],
            },
            "mxfp4",
        ),
    ],
)
def test_checkpoints_as_their_tools_write_them(config, name):
    assert quant(config) == name


def test_experts_may_have_a_configuration_of_their_own():
    dense = {"weights": args("float", 8, "channel"), "targets": ["re:.*self_attn.*"]}
    experts = {"weights": NVFP4, "input_activations": NVFP4, "targets": ["re:.*experts.*"]}
    config = {"quant_method": "compressed-tensors", "config_groups": {"a": dense, "b": experts}}
    assert quant(config) == "nvfp4"
    plain = quark(("fp8_e4m3", "per_tensor", False), ("fp8_e4m3", "per_tensor", False))
    fp4 = quark(("fp4", "per_group", False), None)["global_quant_config"]
    assert quant({**plain, "layer_quant_config": {"*experts*": fp4}}) == "mxfp4"


def test_a_field_that_is_not_known_is_named():
    text = (
        "quantization_config has rotation = 'hadamard', which is not known of gptq and may change"
    )
    with pytest.raises(
        UsageError, match=f"{text} what its codes mean: remove the field if it does"
    ):
        quant({**GPTQ, "rotation": "hadamard"})
    assert quant({**GPTQ, "rotation": None, "meta": {"quantizer": "x"}}) == "int4_g128"
    assert quant({"quant_method": "other", "rotation": 1}) == "other", "refused by its name"


@pytest.mark.parametrize(
    ("config", "name"),
    [
        (None, "none"),
        ({}, "none"),
        (BLOCKS, "fp8_block"),
        ({**BLOCKS, "weight_block_size": [64, 128]}, "fp8_block_64x128"),
        ({**BLOCKS, "activation_scheme": "static"}, "fp8_block_128x128_static"),
        ({"quant_method": "fp8", "activation_scheme": "static"}, "fp8_tensor"),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "fp8_tensor_dynamic"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "int4_g128"),
        ({"quant_method": "gptq", "bits": 8, "group_size": 32, "sym": False}, "int8_zp_g32"),
        ({"quant_method": "gptq", "bits": 4, "group_size": -1}, "gptq_4"),
        ({"quant_method": "gptq", "bits": 3, "group_size": 128}, "gptq_3"),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, "int4_zp_g64"),
        ({"quant_method": "awq", "bits": 4, "group_size": 64, "zero_point": False}, "int4_g64"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        ({"bits": 4}, "unnamed_4"),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"group_0": INT4}},
            "compressed_tensors_int4_group",
        ),
        (compressed(type="int", num_bits=4, strategy="group", group_size=128), "int4_g128"),
        (
            compressed(type="int", num_bits=8, strategy="group", group_size=32, symmetric=False),
            "int8_zp_g32",
        ),
        (
            compressed(
                {"type": "float", "num_bits": 4, "strategy": "tensor_group", "group_size": 16},
                type="float",
                num_bits=4,
                strategy="tensor_group",
                group_size=16,
            ),
            "nvfp4",
        ),
        (compressed(type="float", num_bits=4, strategy="group", group_size=32), "mxfp4"),
        (
            compressed({"dynamic": True}, type="int", num_bits=4, strategy="group", group_size=128),
            "compressed_tensors_int4_group",
        ),
        ({"quant_method": "compressed-tensors"}, "compressed_tensors"),
        ({"quant_method": "compressed-tensors", "config_groups": {"g": 3}}, "compressed_tensors"),
    ],
)
def test_a_method_has_a_name(config, name):
    assert quant(config) == name


def test_the_whole_files_quantization_is_the_text_models():
    assert quant(None, BLOCKS) == "fp8_block"
    assert quant({"quant_method": "mxfp4"}, BLOCKS) == "mxfp4"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["lm_head", "model.layers.0.mlp.gate"], "fp8_block"),
        (["re:.*shared_experts.*"], "fp8_block"),
        (["model.layers.3.mlp.experts"], "fp8_block_except_experts"),
        (None, "fp8_block"),
        (["gate", 3], "fp8_block"),
    ],
)
def test_experts_that_are_left_out_make_another_method(names, expected):
    assert quant({**BLOCKS, "modules_to_not_convert": names}) == expected
    assert quant({**BLOCKS, "ignore": names}) == expected


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ("fp8", "quantization_config must be an object"),
        ({"quant_method": 8}, "quant_method must be a word, not 8"),
        ({**BLOCKS, "weight_block_size": 128}, "weight_block_size must be a list"),
        ({"quant_method": "gptq", "bits": "4"}, "bits must be a whole number"),
        ({"quant_method": "compressed-tensors", "config_groups": []}, "config_groups must be an"),
    ],
)
def test_odd_types_are_one_line(config, text):
    with pytest.raises(UsageError, match=f"--model c.json: {text}"):
        quant(config)


@given(
    method=st.sampled_from(["fp8", "gptq", "awq", "modelopt", "compressed-tensors", "quark", "x"]),
    field=st.sampled_from(
        ["bits", "group_size", "weight_block_size", "quant_algo", "scale_fmt", "sym", "exclude"]
    ),
    side=st.sampled_from(["type", "strategy", "num_bits", "dtype", "qscheme", "block_structure"]),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
        max_leaves=3,
    ),
)
def test_values_of_any_type_are_read_or_one_line(method, field, side, value):
    sides = {"weights": {side: value, "num_bits": 8}, "input_activations": value}
    given_ = {"weight": {side: value}, "input_tensors": value}
    config = {
        "quant_method": method,
        field: value,
        "config_groups": {"g": sides},
        "global_quant_config": given_,
    }
    with contextlib.suppress(UsageError):  # and no other error
        assert isinstance(quant(config), str)
