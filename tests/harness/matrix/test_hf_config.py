"""Real models' config.json files give the facts of configs/models.yaml; bad ones one line."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ExitCode, UsageError
from harness.matrix.hf_config import MAX_BYTES, read_config
from harness.matrix.layout_words import parse_layouts
from harness.matrix.model_cases import points_of
from harness.matrix.models import DEFAULT, known_models

MODELS = known_models(Path(__file__).parents[3] / DEFAULT)
FP8 = {
    "activation_scheme": "dynamic",
    "fmt": "e4m3",
    "quant_method": "fp8",
    "weight_block_size": [128, 128],
}
# The fields that a checkpoint's file has about its experts, with some that have nothing to say.
CONFIGS = {
    "mixtral-8x7b": {
        "model_type": "mixtral",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "hidden_act": "silu",
        "router_aux_loss_coef": 0.02,
        "output_router_logits": False,
        "torch_dtype": "bfloat16",
        "vocab_size": 32000,
    },
    "qwen3-30b-a3b": {
        "model_type": "qwen3_moe",
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "hidden_act": "silu",
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "rope_scaling": None,
    },
    "qwen3-next-80b-a3b": {
        "model_type": "qwen3_next",
        "hidden_size": 2048,
        "intermediate_size": 5120,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
        "num_experts": 512,
        "num_experts_per_tok": 10,
        "norm_topk_prob": True,
        "hidden_act": "silu",
    },
    "deepseek-v3": {
        "model_type": "deepseek_v3",
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "moe_intermediate_size": 2048,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "n_group": 8,
        "topk_group": 4,
        "topk_method": "noaux_tc",
        "scoring_func": "sigmoid",
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "moe_layer_freq": 1,
        "ep_size": 1,
        "hidden_act": "silu",
        "quantization_config": FP8,
    },
    "kimi-k2": {
        "model_type": "kimi_k25",
        "text_config": {
            "model_type": "kimi_k2",
            "hidden_size": 7168,
            "moe_intermediate_size": 2048,
            "n_routed_experts": 384,
            "n_shared_experts": 1,
            "num_experts_per_tok": 8,
            "n_group": 1,
            "topk_group": 1,
            "topk_method": "noaux_tc",
            "scoring_func": "sigmoid",
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.827,
            "hidden_act": "silu",
        },
        "quantization_config": FP8,
    },
    "glm-4.5": {
        "model_type": "glm4_moe",
        "hidden_size": 5120,
        "moe_intermediate_size": 1536,
        "n_routed_experts": 160,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "hidden_act": "silu",
    },
    "gpt-oss-20b": {
        "model_type": "gpt_oss",
        "hidden_size": 2880,
        "intermediate_size": 2880,
        "num_local_experts": 32,
        "num_experts_per_tok": 4,
        "experts_per_token": 4,
        "swiglu_limit": 7.0,
        "hidden_act": "silu",
        "quantization_config": {
            "quant_method": "mxfp4",
            "modules_to_not_convert": ["model.layers.*.mlp.router", "lm_head"],
        },
    },
    "llama-4-maverick": {
        "model_type": "llama4",
        "text_config": {
            "model_type": "llama4_text",
            "hidden_size": 5120,
            "intermediate_size": 8192,
            "intermediate_size_mlp": 16384,
            "num_local_experts": 128,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 2,
            "hidden_act": "silu",
        },
        "vision_config": {"hidden_size": 1408},
    },
    "minimax-m2": {
        "model_type": "minimax_m2",
        "hidden_size": 3072,
        "intermediate_size": 1536,
        "num_local_experts": 256,
        "num_experts_per_tok": 8,
        "scoring_func": "sigmoid",
        "use_routing_bias": True,
        "shared_intermediate_size": 0,
        "hidden_act": "silu",
        "quantization_config": FP8,
    },
    "nemotron-3-nano-30b-a3b": {
        "model_type": "nemotron_h",
        "hidden_size": 2688,
        "intermediate_size": 1856,
        "moe_intermediate_size": 1856,
        "moe_shared_expert_intermediate_size": 3712,
        "n_routed_experts": 128,
        "n_shared_experts": 1,
        "num_experts_per_tok": 6,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "mlp_hidden_act": "relu2",
        "mlp_bias": False,
    },
    "olmoe-1b-7b": {
        "model_type": "olmoe",
        "hidden_size": 2048,
        "intermediate_size": 1024,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "norm_topk_prob": False,
        "hidden_act": "silu",
    },
}
MIXTRAL = CONFIGS["mixtral-8x7b"]


@pytest.fixture
def read(tmp_path):
    def read(config):
        path = tmp_path / "config.json"
        path.write_text(config if isinstance(config, str) else json.dumps(config))
        return read_config(path)

    return read


def line(read, config):
    """The error of a config, which must be one line that names the file."""
    with pytest.raises(UsageError) as error:
        read(config)
    text = str(error.value)
    assert error.value.exit_code is ExitCode.USAGE
    assert text.startswith("--model /")
    assert "\n" not in text
    assert len(text) < 700
    return text.split("config.json: ", 1)[1]


def computed(facts):
    """What the layer computes: all facts but the names of checkpoint and sources."""
    fields = facts.model_dump(exclude={"checkpoint", "source", "shared_intermediate"})
    return {**fields, "shared_width": facts.shared_width}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_models_own_file_gives_the_facts_of_the_table(read, name):
    assert computed(read(CONFIGS[name])) == computed(MODELS[name])


def test_a_quantization_that_modelopt_wrote_beside_the_config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(MIXTRAL))
    beside = {
        "producer": {"name": "modelopt", "version": "0.23.0"},
        "quantization": {
            "quant_algo": "NVFP4",
            "kv_cache_quant_algo": "FP8",
            "group_size": 16,
            "exclude_modules": ["lm_head", "model.layers.0.block_sparse_moe.gate"],
        },
    }
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(beside))
    assert read_config(tmp_path).quant == "nvfp4"
    (tmp_path / "hf_quant_config.json").write_text(json.dumps({"quantization": None}))
    with pytest.raises(UsageError, match=r"hf_quant_config.json: has no quantization"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**MIXTRAL, "quantization_config": FP8}))
    assert read_config(tmp_path).quant == "fp8_block", "the config's own comes first"


def test_a_folder_is_read_by_its_config(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(MIXTRAL))
    assert read_config(tmp_path).experts == 8


@pytest.mark.parametrize("key", ["text_config", "llm_config", "language_config"])
def test_a_text_model_inside_of_another_is_read(read, key):
    assert read({"model_type": "vision", key: MIXTRAL}).hidden == 4096


def test_a_type_that_is_not_known_must_say_everything_itself(read):
    told = {**MIXTRAL, "model_type": "new_moe"}
    assert line(read, told).startswith("does not say how the router scores experts, and model_type")
    told["scoring_func"] = "sigmoid"
    assert line(read, told).startswith("does not say whether the chosen weights are made to sum")
    told["norm_topk_prob"] = False
    assert line(read, told).startswith("does not say whether a bias enters the choice of experts")
    told["use_routing_bias"] = False
    router = read(told).router
    assert (router.scoring, router.renormalize, router.bias) == ("sigmoid", False, False)
    del told["model_type"]
    assert read(told).router.scoring == "sigmoid"


@pytest.mark.parametrize(
    ("fields", "fact", "value"),
    [
        ({"hidden_act": "gelu_pytorch_tanh"}, "activation", "gelu_tanh"),
        ({"hidden_act": "GELU"}, "activation", "gelu"),
        ({"swiglu_limit": 7.0}, "activation", "silu_clamped"),
        ({"mlp_bias": True}, "expert_bias", True),
        ({"moe_latent_size": 1024}, "latent", 1024),
        ({"torch_dtype": "float16"}, "dtype", "fp16"),
        ({"dtype": "float32", "torch_dtype": None}, "dtype", "f32"),
        ({"n_shared_experts": 2}, "shared_width", 2 * 14336),
        ({"shared_intermediate_size": 512}, "shared_width", 512),
        ({"moe_intermediate_size": 64}, "intermediate", 64),
    ],
)
def test_a_field_changes_its_fact(read, fields, fact, value):
    assert getattr(read({**MIXTRAL, **fields}), fact) == value


@pytest.mark.parametrize(
    ("fields", "activation"),
    [
        ({}, "swiglu_clamped"),
        ({"swiglu_limit": None}, "swiglu_clamped"),
        ({"swiglu_alpha": 1.702}, "swiglu_clamped"),
        ({"swiglu_limit": 9.0}, "swiglu_clamped_limit_9"),
        ({"swiglu_alpha": 1.5}, "swiglu_clamped_alpha_1_5_limit_7"),
    ],
)
def test_other_parameters_than_the_row_s_are_another_activation(read, fields, activation):
    """So the layer is refused, and not tested with a limit that it does not have."""
    assert read({**CONFIGS["gpt-oss-20b"], **fields}).activation == activation


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"num_local_experts": None}, "has no experts (none of num_experts, num_local_experts,"),
        ({"num_local_experts": 0}, "has no experts"),
        ({"num_local_experts": "8"}, "num_local_experts must be a whole number from 1 to "),
        ({"num_local_experts": 8.0}, "num_local_experts must be a whole number from 1 to "),
        ({"num_local_experts": [8]}, "num_local_experts must be a whole number from 1 to "),
        ({"num_local_experts": True}, "num_local_experts must be a whole number from 1 to "),
        ({"num_experts": 16}, "num_experts is 16, but num_local_experts is 8"),
        ({"num_experts_per_tok": None}, "has no number of experts per token (none of num_experts_"),
        ({"num_experts_per_tok": 9}, "9 experts per token are more than its 8 experts"),
        ({"hidden_size": None}, "has no hidden_size"),
        ({"hidden_size": -1}, "hidden_size must be a whole number from 1 to 2147483647, not -1"),
        ({"intermediate_size": None}, "has no intermediate size (none of moe_intermediate_size, "),
        ({"moe_intermediate_size": [64, 32]}, "moe_intermediate_size must be a whole number"),
        ({"hidden_act": None}, "has no activation function (none of mlp_hidden_act, hidden_act, "),
        ({"hidden_act": 3}, "hidden_act must be a word, not 3"),
        ({"norm_topk_prob": "yes"}, "norm_topk_prob must be true or false, not 'yes'"),
        (
            {"routed_scaling_factor": 1001},  # no case can have it
            "routed_scaling_factor must be a number from 0.001 to 1000, not 1001",
        ),
        (
            {"torch_dtype": "float8"},
            "dtype must be one of bfloat16, float16, float32, not 'float8'",
        ),
        ({"model_type": 7}, "model_type must be a word, not 7"),
        ({"text_config": 3, "num_local_experts": None}, "text_config must be an object {...}, not"),
        ({"quantization_config": "fp8"}, "quantization_config must be an object {...}, not 'fp8'"),
        (
            {"n_shared_experts": 2, "shared_intermediate_size": 512},
            "is 512 the width of all 2 shared experts, or of each?",
        ),
        (
            {"moe_new_trick": 3, "router_rule": "x"},
            "has fields about experts that are not known: moe_new_trick, router_rule; if they do ",
        ),
    ],
)
def test_a_bad_config_is_one_line(read, fields, text):
    assert line(read, {**MIXTRAL, **fields}).startswith(text)


def test_unknown_fields_that_are_off_or_about_other_things_are_left_alone(read):
    assert read({**MIXTRAL, "moe_new_trick": False, "rope_new": 3, "moe_x": None}).experts == 8


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not JSON in UTF-8: Expecting value"),
        ("{", "not JSON in UTF-8: Expecting property name"),
        ("[1, 2]", "must hold an object {...}, not list"),
        ("null", "must hold an object {...}, not NoneType"),
        ("[" * 100_000, "not JSON in UTF-8: "),
        ('{"num_experts": ' + "9" * 5000 + "}", "not JSON in UTF-8: "),
        (
            '{"hidden_size": 64, "num_experts": NaN}',
            "num_experts must be a whole number from 1 to ",
        ),
    ],
)
def test_what_is_no_json_object_is_one_line(read, text, expected):
    assert line(read, text).startswith(expected)


def test_a_file_that_is_missing_too_large_or_no_file_is_one_line(tmp_path, read):
    with pytest.raises(UsageError, match=r"--model /.*none.json: there is no such file$"):
        read_config(tmp_path / "none.json")
    with pytest.raises(UsageError, match=r"--model /.*/config.json: there is no such file$"):
        read_config(tmp_path)
    os.mkfifo(tmp_path / "pipe.json")
    with pytest.raises(UsageError, match="there is no such file"):
        read_config(tmp_path / "pipe.json")
    assert line(read, " " * (MAX_BYTES + 1)).startswith("the file is larger than 1,000,000 bytes")
    (tmp_path / "latin.json").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(UsageError, match="not JSON in UTF-8: 'utf-8' codec"):
        read_config(tmp_path / "latin.json")


NAMES = sorted({name for config in CONFIGS.values() for name in config} | {"dtype", "moe_x"})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner),
    max_leaves=4,
)
CHANGES = st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3)


def facts_or_error(path):
    try:
        return read_config(path)
    except UsageError as error:
        return error


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(sorted(CONFIGS)), changes=CHANGES)
def test_any_config_is_facts_that_make_cases_or_one_line(tmp_path_factory, name, changes):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps({**CONFIGS[name], **changes}))
    facts = facts_or_error(path)
    if isinstance(facts, UsageError):
        assert "\n" not in str(facts)
        return
    assert "\n" not in facts.summary()
    for case in points_of(facts, layouts=parse_layouts("tp:1,ep:8/1"), tokens=[1]):
        assert type(case).from_id(case.id) == case
