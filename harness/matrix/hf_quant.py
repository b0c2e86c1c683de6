"""Read the `quantization_config` of a `config.json` as the name of a quantization method.

A name that is no row of `moe.quant` is kept: cases of such a checkpoint are refused with it.
"""

from __future__ import annotations

import re
from typing import Any

from harness.matrix.hf_fields import Fields
from moe.spec import BLOCK

_WORD = re.compile(r"[^a-z0-9]+")


def quant_of(fields: Fields, file: Fields) -> str:
    """Return the method of a checkpoint: `none`, a row of moe.quant, or another name.

    fields: of the text model. file: of the whole file, whose quantization applies to it, too.
    Raises UsageError for values of odd types.
    """
    values = fields.section("quantization_config") or file.section("quantization_config")
    if not values:
        return "none"
    quant = Fields(path=file.path, values=values)
    method = quant.word("quant_method")
    name = _of_method(quant, method or "unnamed")
    return f"{name}_except_experts" if _leaves_experts(values) else name


def _of_method(quant: Fields, method: str) -> str:
    if method == "fp8":
        return _fp8(quant)
    if method == "compressed-tensors":
        return _compressed(quant)
    algorithm = quant.word("quant_algo")
    bits = quant.whole("bits")
    if method in ("gptq", "awq"):
        return _integers(quant, method, bits)
    if algorithm == "NVFP4":
        return "nvfp4"
    return _as_word("_".join(str(part) for part in (method, algorithm, bits) if part))


def _fp8(quant: Fields) -> str:
    """Return the row for e4m3 codes: static or dynamic per tensor, or dynamic in square blocks."""
    static = quant.word("activation_scheme") == "static"
    block = quant.sizes("weight_block_size")
    if block is None:
        return "fp8_tensor" if static else "fp8_tensor_dynamic"
    if block == [BLOCK, BLOCK] and not static:
        return "fp8_block"
    return _as_word(f"fp8_block_{'x'.join(map(str, block))}{'_static' if static else ''}")


def _integers(quant: Fields, method: str, bits: int | None) -> str:
    """Return the row for integer weights in groups; a scale per row (-1) has none."""
    size = quant.values.get("group_size")
    group = None if size == -1 else quant.whole("group_size", "q_group_size")
    is_awq, is_symmetric = method == "awq", quant.flag("sym") is not False
    has_zeros = quant.flag("zero_point") is not False if is_awq else not is_symmetric
    name = _of_groups(bits, group, has_zeros=has_zeros)
    return name or _as_word("_".join(str(part) for part in (method, bits) if part))


def _of_groups(bits: int | None, group: int | None, *, has_zeros: bool) -> str | None:
    """Return the row of moe.quant for integer weights, or None if it has none."""
    if bits not in (4, 8) or group not in (32, 64, 128):
        return None
    return f"int{bits}_{'zp_' if has_zeros else ''}g{group}"


def _known(group: dict[str, Any], weights: dict[str, Any]) -> str | None:
    """Return the row of moe.quant for a group of compressed-tensors, or None."""
    bits, kind, strategy = (weights.get(name) for name in ("num_bits", "type", "strategy"))
    activations, size = group.get("input_activations"), weights.get("group_size")
    if kind == "int" and strategy == "group" and activations is None:
        return _of_groups(bits, size, has_zeros=not weights.get("symmetric", True))
    if kind == "float" and bits == 4 and strategy == "tensor_group" and size == 16:
        return "nvfp4" if activations is not None else None
    if kind == "float" and bits == 4 and strategy == "group" and size == 32:
        return "mxfp4" if activations is None else None
    return None


def _compressed(quant: Fields) -> str:
    """Return a row, or a name such as compressed_tensors_int4 for the first group's weights."""
    groups = quant.section("config_groups") or {}
    first: Any = next(iter(groups.values()), None)
    weights = first.get("weights") if isinstance(first, dict) else None
    if not isinstance(weights, dict):
        return "compressed_tensors"
    known = _known(first, weights)
    if known is not None:
        return known
    kind, bits = weights.get("type"), weights.get("num_bits")
    strategy = weights.get("strategy")
    parts = [part for part in (f"{kind}{bits}", strategy) if isinstance(part, str)]
    return _as_word("_".join(["compressed_tensors", *parts]))


def _leaves_experts(values: dict[str, Any]) -> bool:
    """Return whether some routed experts are left out of the quantization."""
    names = [*_list(values.get("modules_to_not_convert")), *_list(values.get("ignore"))]
    return any("expert" in name and "shared" not in name for name in names)


def _list(value: object) -> list[str]:
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


def _as_word(text: str) -> str:
    return _WORD.sub("_", text.lower()).strip("_")
