"""Read the `quantization_config` of a `config.json` as the name of a quantization method.

What a checkpoint states of weights and activations is looked up among the formats of `moe.quant`.
Without such a method a name is made of it, and cases of the checkpoint are refused with it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from harness.matrix.hf_fields import Fields
from harness.matrix.hf_quant_fields import check_fields
from harness.matrix.quant_sides import Side, method_of

if TYPE_CHECKING:
    from collections.abc import Callable

_WORD = re.compile(r"[^a-z0-9]+")
# ModelOpt's algorithm -> weights and activations.
_FP8, _NVFP4 = (
    Side(kind="float", bits=8, block=(None, None)),
    Side(kind="float", bits=4, block=(1, 16), scale="e4m3"),
)
_MXFP8 = Side(kind="float", bits=8, block=(1, 32), scale="e8m0")
_MXFP4 = Side(kind="float", bits=4, block=(1, 32), scale="e8m0")
_TOKEN = Side(kind="float", bits=8, block=(1, None))
_STATIC = Side(kind="float", bits=8, block=(None, None), static=True)
_ALGORITHMS = {
    "FP8": (_FP8, _STATIC),
    "FP8_PER_CHANNEL_PER_TOKEN": (_TOKEN, _TOKEN),
    "MXFP8": (_MXFP8, _MXFP8),
    "NVFP4": (_NVFP4, Side(kind="float", bits=4, block=(1, 16), scale="e4m3", static=True)),
    "W4A8_MXFP4_MXFP8": (_MXFP4, _MXFP8),
    "W4A16_MXFP4": (_MXFP4, None),
}


def quant_of(fields: Fields, file: Fields) -> str:
    """Return the method of a checkpoint: `none`, a row of moe.quant, or another name.

    fields: of the text model. file: of the whole file, whose quantization applies to it, too.
    Raises UsageError for values of odd types, and for fields that are not known.
    """
    values = fields.section("quantization_config") or file.section("quantization_config")
    if not values:
        return "none"
    quant = Fields(path=file.path, values=values)
    method = quant.word("quant_method") or "unnamed"
    check_fields(quant, method)
    name = _READERS.get(method, _named)(quant)
    return f"{name}_except_experts" if _leaves_experts(values) else name


def _named(quant: Fields) -> str:
    """Return a name of a method that no row has."""
    kind = quant.word("bnb_4bit_quant_type") if quant.flag("load_in_4bit") else None
    parts = (quant.word("quant_method") or "unnamed", quant.word("quant_algo"), quant.whole("bits"))
    return _word(*parts, kind)


def _fp8(quant: Fields) -> str:
    """Return the row for e4m3 codes: static or dynamic per tensor, or dynamic in square blocks."""
    static = quant.word("activation_scheme") == "static"
    block, scale = quant.sizes("weight_block_size"), quant.word("scale_fmt")
    sides = tuple(block) if block and len(block) == 2 else (None, None)
    weights = Side(kind="float", bits=8, block=(sides[0], sides[1]))
    inputs = (None, None) if block is None else (1, sides[1])
    name = method_of(weights, Side(kind="float", bits=8, block=inputs, static=static))
    is_plain = scale in (None, "float") and quant.word("fmt") in (None, "e4m3")
    if name is not None and is_plain and (block is None or len(block) == 2):
        return name
    kind = None if quant.word("fmt") == "e4m3" else quant.word("fmt")
    shape = None if block is None else "block_" + "x".join(map(str, block))
    return _word("fp8", kind, shape, "static" if static else None, scale)


def _integers(quant: Fields) -> str:
    """Return the row of GPTQ or AWQ for integer weights in groups; a scale per row (-1) has none.

    Columns in the order of their activations (desc_act) have groups of scattered columns.
    """
    method = quant.word("quant_method")
    is_awq, is_symmetric = method == "awq", quant.flag("sym") is not False
    bits = quant.whole("bits", "w_bit")
    has_zeros = quant.flag("zero_point") is not False if is_awq else not is_symmetric
    scattered = bool(quant.flag("desc_act"))
    size = quant.values.get("group_size")
    group = None if size == -1 else quant.whole("group_size", "q_group_size")
    weights = Side(kind="int", bits=bits or 0, block=(1, group), zero_point=has_zeros)
    name = None if scattered or group is None else method_of(weights, None)
    return name or _word(method, bits, "desc_act" if scattered else None)


def _modelopt(quant: Fields) -> str:
    """Return the row for an algorithm of ModelOpt. int4 is symmetric: its AWQ scales inputs."""
    algorithm, group = quant.word("quant_algo"), quant.whole("group_size")
    if algorithm == "W4A16_AWQ" and not quant.flag("has_zero_point"):
        name = method_of(Side(kind="int", bits=4, block=(1, group or 128)), None)
    elif algorithm == "NVFP4" and group not in (None, 16):
        name = None
    else:
        name = method_of(*_ALGORITHMS[algorithm]) if algorithm in _ALGORITHMS else None
    return name or _word("modelopt", algorithm, group)


def _compressed(quant: Fields) -> str:
    """Return the row for the experts' group, or a name such as compressed_tensors_int4_group."""
    groups = quant.section("config_groups") or {}
    group = _group_of_experts(groups)
    weights = group.get("weights")
    if not isinstance(weights, dict):
        return "compressed_tensors"
    inputs = group.get("input_activations")
    act = None if inputs is None else _compressed_side(inputs, is_weight=False)
    side = _compressed_side(weights, is_weight=True)
    is_known = side is not None and (inputs is None or act is not None)
    name = method_of(side, act) if is_known and side is not None else None
    kind, bits = weights.get("type"), weights.get("num_bits")
    return name or _word("compressed_tensors", f"{kind}{bits}", weights.get("strategy"))


def _group_of_experts(groups: dict[str, Any]) -> dict[str, Any]:
    """Return the group whose targets name experts, otherwise the first one."""
    sections = [group for group in groups.values() if isinstance(group, dict)]
    named = [g for g in sections if any("expert" in target for target in _list(g.get("targets")))]
    return next(iter(named or sections), {})


def _compressed_side(args: object, *, is_weight: bool) -> Side | None:
    """Return what one side's arguments state, or None for what no format has."""
    if not isinstance(args, dict) or not isinstance(args.get("num_bits"), int):
        return None
    kind, strategy = str(args.get("type")), str(args.get("strategy"))
    group, scale, structure = args.get("group_size"), "f32", args.get("block_structure")
    blocks: dict[Any, Any] = {
        "tensor": (None, None),
        "channel": (1, None),
        "token": (1, None),
        "group": (1, group),
        "tensor_group": (1, group),
        "block": tuple(structure) if isinstance(structure, list) else None,
    }
    if strategy == "tensor_group":
        scale = "e4m3"
    elif strategy == "group" and kind == "float" and group == 32:
        scale = "e8m0"
    if strategy not in blocks:
        return None
    spans = strategy in ("tensor", "tensor_group")
    return Side(
        kind=kind,
        bits=args["num_bits"],
        block=blocks[strategy],
        scale=scale,
        zero_point=args.get("symmetric") is False,
        static=not is_weight and spans and args.get("dynamic") is not True,
    )


def _quark(quant: Fields) -> str:
    """Return the row for Quark's global configuration, or that of experts where they have one."""
    layers = quant.section("layer_quant_config") or {}
    of_experts = next(
        (c for name, c in layers.items() if "expert" in name and "shared" not in name), None
    )
    config = (
        of_experts if isinstance(of_experts, dict) else quant.section("global_quant_config") or {}
    )
    weights, inputs = config.get("weight"), config.get("input_tensors")
    side = _quark_side(weights, is_weight=True)
    act = _quark_side(inputs, is_weight=False)
    is_known = side is not None and (inputs is None or act is not None)
    name = method_of(side, act) if is_known and side is not None else None
    described = weights if isinstance(weights, dict) else {}
    return name or _word("quark", described.get("dtype"), described.get("qscheme"))


_QUARK_TYPES = {
    "fp8_e4m3": ("float", 8),
    "fp4": ("float", 4),
    "int8": ("int", 8),
    "int4": ("int", 4),
}


def _quark_side(args: object, *, is_weight: bool) -> Side | None:
    """Return what one side's arguments state, or None for what no format has."""
    if not isinstance(args, dict) or str(args.get("dtype")) not in _QUARK_TYPES:
        return None
    (kind, bits), scheme, group = (
        _QUARK_TYPES[args["dtype"]],
        str(args.get("qscheme")),
        args.get("group_size"),
    )
    blocks: dict[Any, Any] = {
        "per_tensor": (None, None),
        "per_channel": (1, None),
        "per_token": (1, None),
        "per_group": (1, group),
    }
    if scheme not in blocks:
        return None
    is_static = not is_weight and scheme == "per_tensor" and not args.get("is_dynamic")
    has_exponents = args.get("scale_format") == "e8m0"
    return Side(
        kind=kind,
        bits=bits,
        block=blocks[scheme],
        scale="e8m0" if has_exponents else "f32",
        zero_point=args.get("symmetric") is False,
        static=is_static,
    )


_READERS: dict[str, Callable[[Fields], str]] = {
    "fp8": _fp8,
    "gptq": _integers,
    "awq": _integers,
    "modelopt": _modelopt,
    "compressed-tensors": _compressed,
    "quark": _quark,
    "mxfp4": lambda _: method_of(_MXFP4, None) or "mxfp4",
}


def _leaves_experts(values: dict[str, Any]) -> bool:
    """Return whether some routed experts are left out of the quantization."""
    fields = ("modules_to_not_convert", "ignore", "ignored_layers", "exclude", "exclude_modules")
    names = [name for field in fields for name in _list(values.get(field))]
    return any("expert" in name and "shared" not in name for name in names)


def _list(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _word(*parts: object) -> str:
    """Return a name of what is given."""
    text = "_".join(str(part) for part in parts if part)
    return _WORD.sub("_", text.lower()).strip("_")
