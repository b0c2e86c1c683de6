"""Recorded workloads as cases: shapes, formats, routing, and a line for what no case can say."""

import pytest

from harness.errors import ConfigError
from harness.matrix.case import MoETestConfig
from harness.matrix.layout_words import parse_layouts
from harness.matrix.traces.trace_cases import cases_of
from harness.matrix.traces.trace_folder import read_folder
from tests.harness import trace_sets
from tests.harness.trace_sets import DEEPSEEK, RENORM, ROUTED, T, line, spec, write


def made(root, layouts="tp:1", quants=()):
    return cases_of(read_folder(root).workloads, layouts=parse_layouts(layouts), quants=quants)


def test_shapes_formats_and_routing_are_the_recorded_ones(tmp_path):
    cases = made(write(tmp_path, RENORM, DEEPSEEK, ROUTED))
    assert [case.id.rpartition("-trace:")[0] for case in cases] == [
        "m:20-n:96-k:256-e:8-topk:2-experts:auto",
        "m:20-n:96-k:256-e:8-topk:2-experts:auto-quant:fp8_block-router:sigmoid-bias-groups:4-"
        "chosen_groups:2-scale:2.5-logits_dtype:f32",
        "m:20-n:96-k:256-e:8-topk:3-experts:auto-logits_dtype:f32",
    ]
    assert len({case.trace for case in cases}) == 3
    assert [MoETestConfig.from_id(case.id) for case in cases] == list(cases)


def test_layouts_share_the_tokens_and_methods_replace_the_own_one(tmp_path):
    cases = made(write(tmp_path, RENORM), "tp:2,dp:3+ep", ("none", "fp8_block"))
    assert [(c.m, c.tp_size, c.dp_size, c.quant) for c in cases] == [
        (T, 2, 1, "none"),
        (T, 2, 1, "fp8_block"),
        (7, 1, 3, "none"),
        (7, 1, 3, "fp8_block"),
    ]


def test_a_workload_without_tokens_is_no_case(tmp_path):
    data = line(RENORM)
    data["workload"]["axes"]["seq_len"] = 0
    for name in ("hidden_states", "routing_logits"):
        data["workload"]["inputs"][name] = {"type": "random"}
    assert made(write(tmp_path, lines=[data])) == ()


def test_a_share_of_the_experts_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="logits are recorded for all experts"):
        made(write(tmp_path, RENORM), "ep:8/1")


def of(name, /, **changes):
    """Return a definition with inputs or axes replaced; None removes one."""
    data = trace_sets.definitions()[name]
    for part, values in changes.items():
        if not isinstance(values, dict):
            data[part] = values
            continue
        merged = data[part] | values
        data[part] = {key: value for key, value in merged.items() if value is not None}
    return data


def random_line(definition):
    """Return a workload of a definition that has no recorded values."""
    inputs = {
        name: {"type": "random"} if one["shape"] else {"type": "scalar", "value": 1.0}
        for name, one in definition["inputs"].items()
    }
    workload = {"uuid": "1", "axes": {"seq_len": T}, "inputs": inputs}
    return {"definition": definition["name"], "workload": workload}


STATES, IDS = ("seq_len", "hidden_size"), spec("int32", "seq_len", "top_k")
UNSAYABLE = [
    (of(RENORM, inputs={"hidden_states": None}), "it has no input for hidden states"),
    (of(RENORM, inputs={"routing_logits": None}), "it has no input for logits"),
    (
        of(RENORM, inputs={"hidden_states": spec("bfloat16", "hidden_size", "seq_len")}),
        r"has the shape \['hidden_size', 'seq_len'\], and must have a variable axis of tokens",
    ),
    (of(RENORM, inputs={"routing_logits": spec("int8", "seq_len", "num_experts")}), "are int8"),
    (
        of(RENORM, outputs={"output": spec("int8", *STATES)})
        | {"inputs": of(RENORM, inputs={"hidden_states": spec("int8", *STATES)})["inputs"]},
        "its output is int8; layers return",
    ),
    (of(RENORM, name="moe_renorm"), "neither an axis top_k nor its name"),
    (of(RENORM, name="moe_topk2"), "neither its name nor its tags say a routing that is known"),
    (
        of(RENORM, inputs={"routing_bias": spec("float32", "num_experts")}),
        "neither its name nor its tags say a routing that is known",
    ),
    (of(ROUTED), "topk_ids without recorded topk_weights cannot be read"),
    (of(RENORM, tags=["quantization:int3"]), "tags say quantization int3, which no method stands"),
    (
        of(RENORM, axes={"intermediate_size": None}, inputs={"w2": None}),
        "it has no constant axis intermediate_size or intermediate_dim",
    ),
    (
        of(RENORM, axes={"num_experts": {"type": "const", "value": 0}}),
        "num_experts must be at least 1, not 0",
    ),
]


@pytest.mark.parametrize(("definition", "text"), UNSAYABLE, ids=[text for _, text in UNSAYABLE])
def test_what_no_case_can_say_is_one_line_with_the_definition(tmp_path, definition, text):
    name = definition["name"]
    root = write(tmp_path, lines=[random_line(definition)], changed={name: definition})
    with pytest.raises(ConfigError, match=text) as raised:
        made(root)
    (error,) = raised.value.errors
    assert error.startswith(f"definition {name!r}: ")


@pytest.mark.parametrize(
    ("definition", "axes"),
    [
        (of(RENORM, name="moe_topk2", tags=["routing:renorm"]), {"router": "softmax"}),
        (of(RENORM, tags=["quantization:float4_e2m1fn_mxfp4"]), {"quant": "mxfp4"}),
        (of(DEEPSEEK, inputs={"hidden_states_scale": spec("float32")}), {"quant": "fp8_tensor"}),
        (of(DEEPSEEK, inputs={"routing_bias": None}), {"router_bias": False, "router": "sigmoid"}),
    ],
)
def test_tags_and_dtypes_are_read(tmp_path, definition, axes):
    name = definition["name"]
    lines = [random_line(definition)]
    (case,) = made(write(tmp_path, lines=lines, changed={name: definition}))
    assert {axis: getattr(case, axis) for axis in axes} == axes
