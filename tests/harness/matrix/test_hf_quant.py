"""The quantization of a checkpoint: rows of moe.quant where they are that, other names else."""

import pytest

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
    group = {"weights": weights, "input_activations": activations and {"dynamic": activations}}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}


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
            compressed("dynamic", type="float", num_bits=4, strategy="tensor_group", group_size=16),
            "nvfp4",
        ),
        (compressed(type="float", num_bits=4, strategy="group", group_size=32), "mxfp4"),
        (
            compressed("dynamic", type="int", num_bits=4, strategy="group", group_size=128),
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
