"""Turn recorded workloads into cases: their shapes, formats and routing, on given layouts.

A definition says its shapes in axes and its dtypes in inputs. How it routes stands in its name, as
published data sets have it, or in a tag `routing:WORD`: `topk8`, `ng8_kg4` for groups, `ds_routing`
for sigmoid scores with a correction bias, `renorm` for the softmax over the chosen experts. Its
reference code is not read.
"""

from __future__ import annotations

import re
from itertools import product
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError, UsageError
from harness.matrix.axis import value_error
from harness.matrix.case import AXES, MoETestConfig
from moe.oracle import AUTO
from moe.quant import QUANT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.matrix.layout_words import LayoutChoice
    from harness.matrix.traces.trace_folder import RecordedWorkload
    from harness.matrix.traces.trace_format import Definition, TensorSpec

# What an input is -> its names in published definitions.
ROLES = {
    "hidden states": ("hidden_states", "x"),
    "scales of hidden states": ("hidden_states_scale",),
    "logits": ("routing_logits", "router_logits", "gating_output"),
    "bias": ("routing_bias", "correction_bias", "e_score_correction_bias"),
    "ids": ("topk_ids",),
    "weights": ("topk_weights",),
    "factor": ("routed_scaling_factor",),
}
WIDTHS = ("intermediate_size", "intermediate_dim")
TAG, ROUTING_TAG = "quantization:", "routing:"
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "f32"}
# Endings of the tag `quantization:` -> methods, for definitions that hold unquantized weights.
_TAGGED = {"mxfp4": "mxfp4", "nvfp4": "nvfp4", "mxfp8": "mxfp8"}
_TOP_K, _GROUPS = re.compile(r"topk(\d+)"), re.compile(r"ng(\d+)_kg(\d+)")


def name_of(definition: Definition, role: str) -> str | None:
    """Return the name of the input that has a role of ROLES, or None."""
    return next((name for name in ROLES[role] if name in definition.inputs), None)


def has_ids(workload: RecordedWorkload) -> bool:
    """Return whether both ids and weights of the chosen experts are recorded."""
    names = [name_of(workload.definition, role) for role in ("ids", "weights")]
    return all(name is not None and workload.stored(name) is not None for name in names)


def has_block_scales(definition: Definition) -> bool:
    """Return whether hidden states are codes with a scale for each block of a token."""
    name = name_of(definition, "scales of hidden states")
    return name is not None and len(definition.inputs[name].shape or ()) == 2


def cases_of(
    workloads: Sequence[RecordedWorkload],
    *,
    layouts: Sequence[LayoutChoice],
    quants: Sequence[str] = (),
) -> tuple[MoETestConfig, ...]:
    """Return a case for each workload with tokens, layout and method, those of a layout together.

    quants: methods for the experts; none: the definition's own. Raises ConfigError with a line for
    each definition that no case can say.
    """
    errors: dict[str, str] = {}
    cases = []
    for choice, quant, workload in product(layouts, quants or (None,), workloads):
        name = workload.definition.name
        try:
            if _token_count(workload) > 0:
                cases.append(_case(workload, choice, quant))
        except UsageError as error:
            errors.setdefault(str(error), f"definition {name!r}: {error}")
    if errors:
        raise ConfigError(list(errors.values()))
    return tuple(dict.fromkeys(cases))


def _case(workload: RecordedWorkload, choice: LayoutChoice, quant: str | None) -> MoETestConfig:
    definition, layout = workload.definition, choice.layout
    if choice.is_share:
        text = "logits are recorded for all experts, and a share of the ranks has some; "
        raise UsageError(text + "give a layout of all ranks, such as tp:1 or ep:2")
    hidden, output = _spec(definition, "hidden states"), next(iter(definition.outputs.values()))
    model = hidden if hidden.dtype in _DTYPES else output
    dtype = _DTYPES.get(model.dtype)
    if dtype is None:
        raise UsageError(f"its output is {model.dtype}; layers return {', '.join(_DTYPES)}")
    routing = _routing(workload, dtype)
    values: dict[str, Any] = {
        "m": -(-_token_count(workload) // layout.dp_size),
        "n": _size(definition, WIDTHS),
        "k": _shape(definition, "hidden states")[1],
        "num_experts": _experts(definition),
        "top_k": _top_k(definition),
        "quant": _quant(definition) if quant is None else quant,
        "dtype": dtype,
        "trace": workload.line.digest,
        **routing,
    }
    errors = [e for name, v in values.items() if (e := value_error(AXES[name], v)) is not None]
    if errors:
        raise UsageError("; ".join(errors))
    return MoETestConfig(experts=AUTO, **values, **vars(layout))


def _spec(definition: Definition, role: str) -> TensorSpec:
    """Return the input that has a role. Raises UsageError without one, or for a scalar."""
    name = name_of(definition, role)
    if name is None:
        raise UsageError(f"it has no input for {role} ({' or '.join(ROLES[role])})")
    return definition.inputs[name]


def _shape(definition: Definition, role: str) -> tuple[str, int]:
    """Return the axis of a matrix's rows, which workloads give, and the number of its columns."""
    name, shape = name_of(definition, role), _spec(definition, role).shape or []
    sizes = definition.sizes
    if len(shape) != 2 or shape[0] not in definition.variable_axes or shape[1] not in sizes:
        rule = "a variable axis of tokens and a constant one"
        raise UsageError(f"its input {name} has the shape {shape}, and must have {rule}")
    tokens = (_spec(definition, "hidden states").shape or [""])[0]
    if shape[0] != tokens:
        raise UsageError(f"its input {name} has rows of {shape[0]!r}, not of tokens, {tokens!r}")
    return shape[0], sizes[shape[1]]


def _token_count(workload: RecordedWorkload) -> int:
    axis, _ = _shape(workload.definition, "hidden states")
    return workload.sizes[axis]


def _size(definition: Definition, names: Sequence[str]) -> int:
    for name in names:
        if name in definition.sizes:
            return definition.sizes[name]
    raise UsageError(f"it has no constant axis {' or '.join(names)}")


def _experts(definition: Definition) -> int:
    """Return the number of experts that the router chooses from."""
    if name_of(definition, "logits") is not None:
        return _shape(definition, "logits")[1]
    return _size(definition, ("num_experts", "num_local_experts"))


def _top_k(definition: Definition) -> int:
    if name_of(definition, "ids") is not None:
        return _shape(definition, "ids")[1]
    if "top_k" in definition.sizes:
        return definition.sizes["top_k"]
    named = _TOP_K.search(definition.name)
    if named is None:
        raise UsageError("neither an axis top_k nor its name (topk8) says the experts of a token")
    return int(named[1])


def _routing(workload: RecordedWorkload, dtype: str) -> dict[str, Any]:
    """Return the routing axes. Recorded ids and weights come first: logits are made from them."""
    definition = workload.definition
    if has_ids(workload):
        if _spec(definition, "ids").dtype not in ("int32", "int64"):
            raise UsageError(f"its ids are {_spec(definition, 'ids').dtype}, not int32 or int64")
        if _shape(definition, "weights") != _shape(definition, "ids"):
            raise UsageError("its topk_weights have another shape than its topk_ids")
        return {"logits_dtype": "model" if dtype == "f32" else "f32"}
    if name_of(definition, "ids") is not None and name_of(definition, "logits") is None:
        text = "topk_ids without recorded topk_weights cannot be read"
        raise UsageError(f"{text}; record both as safetensors, or routing_logits")
    name = _spec(definition, "logits").dtype
    logits = _DTYPES.get(name)
    if logits not in (dtype, "f32", "bf16"):
        raise UsageError(
            f"its logits are {_spec(definition, 'logits').dtype}, not float32 or bfloat16"
        )
    routing: dict[str, Any] = {"logits_dtype": "model" if logits == dtype else logits}
    factor = name_of(definition, "factor")
    if factor is not None and (value := workload.scalar(factor)) is not None:
        routing["router_scale"] = float(f"{value:.6g}")
    if not _routes_by_sigmoid(definition):
        return routing
    routing |= {"router": "sigmoid", "router_bias": name_of(definition, "bias") is not None}
    groups = _GROUPS.search(definition.name)
    if groups is not None and int(groups[1]) > int(groups[2]):
        routing |= {"router_groups": int(groups[1]), "chosen_groups": int(groups[2])}
    return routing


def _routes_by_sigmoid(definition: Definition) -> bool:
    """Return whether scores are sigmoids, or if not, the softmax over the chosen experts."""
    tags = [tag for tag in definition.tags if tag.startswith(ROUTING_TAG)]
    words = " ".join((definition.name, *tags))
    if "ds_routing" in words:
        return True
    if "renorm" in words and name_of(definition, "bias") is None:
        return False
    text = "neither its name nor its tags say a routing that is known (ds_routing; renorm, without "
    text += "a bias); record topk_ids and topk_weights, or add a tag such as routing:renorm"
    raise UsageError(text)


def _quant(definition: Definition) -> str:
    """Return the method that makes the definition's formats."""
    tags = [tag.removeprefix(TAG) for tag in definition.tags if tag.startswith(TAG)]
    for tag in tags:
        for ending, method in _TAGGED.items():
            if tag.endswith(ending) and method in QUANT.rows:
                return method
    hidden = _spec(definition, "hidden states").dtype
    if hidden == "float8_e4m3fn":
        return "fp8_block" if has_block_scales(definition) else "fp8_tensor"
    if hidden in _DTYPES and not tags:
        return "none"
    text = f"hidden states are {hidden}, and its tags say quantization {', '.join(tags) or 'none'}"
    raise UsageError(f"{text}, which no method stands for; say one by --quant")
