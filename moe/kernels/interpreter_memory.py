"""Remember what Triton's interpreter computes again and again: shapes, dtypes, decoded numbers.

Each operation of an interpreted kernel makes tensors and their types anew, for which it checks a
shape, wraps its sizes and builds a table of dtypes; numbers of 8 and 16 bits are converted in
thirty steps of numpy. Here Triton's own functions compute each of these once for each argument.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

from moe.kernels.interpreter_replay import replayed
from moe.kernels.interpreter_scalars import indices
from moe.kernels.interpreter_tiles import expansions, loads, masked_loads, pointer_sums, splats

if TYPE_CHECKING:
    from collections.abc import Callable

Function = Any  # of Triton, or in place of one
TABLE_BITS = 16  # widest numbers whose conversion is looked up

# Methods of Triton's builder that make tiles, their parameters, and what replaces them.
TILES = (
    ("create_load", ("ptr", "cache_policy", "is_volatile"), loads),
    (
        "create_masked_load",
        ("ptrs", "mask", "other", "cache_policy", "is_volatile"),
        masked_loads,
    ),
    ("create_addptr", ("ptr", "offset"), pointer_sums),
    ("create_splat", ("ret_ty", "arg"), splats),
    ("create_expand_dims", ("arg", "axis"), expansions),
)


@cache
def replacements() -> tuple[tuple[Any, str, Function], ...]:
    """Return owner, name and replacement of functions that this version of Triton has.

    A function with other parameters than those known here is left as it is.
    """
    known: tuple[tuple[Any, str, tuple[str, ...], Callable[[Function], Function]], ...] = (
        (tl.block_type, "__init__", ("self", "element_ty", "shape"), block_types),
        (tl.dtype, "__eq__", ("self", "other"), equalities),
        (tl.tensor, "__init__", ("self", "handle", "type"), tensors),
        (interpreter, "_get_np_dtype", ("tt_dtype",), numpy_dtypes),
        (
            interpreter,
            "_convert_float",
            ("input", "input_dtype", "output_dtype", "rounding_mode"),
            conversions,
        ),
        (interpreter, "_patch_lang_tensor", ("tensor", "scope"), indices),
        (interpreter, "_patch_attr", ("obj", "name", "member", "builder", "scope"), replayed),
        *(
            (interpreter.InterpreterBuilder, name, ("self", *parameters), replacing)
            for name, parameters, replacing in TILES
        ),
    )
    return tuple(
        (owner, name, remembering(getattr(owner, name)))
        for owner, name, parameters, remembering in known
        if hasattr(owner, name)
        and tuple(inspect.signature(getattr(owner, name)).parameters) == parameters
    )


def block_types(make: Function) -> Function:
    """Return `block_type.__init__` with what it sets remembered by element and shape."""
    made: dict[Any, dict[str, Any]] = {}

    def init(self: Any, element_ty: Any, shape: Any) -> None:
        sizes = tuple(s.value if isinstance(s, tl.constexpr) else s for s in shape)
        key = (str(element_ty), sizes)
        if key not in made:
            make(self, element_ty, shape)
            made[key] = dict(vars(self))
        self.__dict__.update(made[key], element_ty=element_ty)

    return init


def equalities(compare: Function) -> Function:
    """Return `dtype.__eq__` without a comparison of a dtype with itself."""

    def equal(self: Any, other: Any) -> Any:
        return True if self is other else compare(self, other)

    return equal


def tensors(make: Function) -> Function:
    """Return `tensor.__init__` with what it sets remembered by the tensor's type."""
    made: dict[str, dict[str, Any]] = {}

    def init(self: Any, handle: Any, type: Any) -> None:  # noqa: A002
        if type.name not in made:
            make(self, handle, type)
            made[type.name] = {k: v for k, v in vars(self).items() if k != "handle"}
        self.__dict__.update(made[type.name], handle=handle, type=type, dtype=type.scalar)

    return init


def numpy_dtypes(find: Function) -> Function:
    """Return `_get_np_dtype` with its results remembered by the name of a type."""
    by_name: dict[str, Any] = {}

    def dtype_of(tt_dtype: Any) -> Any:
        if tt_dtype.name not in by_name:
            by_name[tt_dtype.name] = find(tt_dtype)
        return by_name[tt_dtype.name]

    return dtype_of


def conversions(convert: Function) -> Function:
    """Return `_convert_float` with every number of at most TABLE_BITS converted once.

    float32 numbers are converted without zeros, among which Triton looks for the first bit that is
    set, in as many steps as a number has bits.
    """
    tables: dict[Any, Any] = {}

    def converted(input: Any, input_dtype: Any, output_dtype: Any, rounding_mode: Any) -> Any:  # noqa: A002
        bits = input_dtype.primitive_bitwidth
        rest = input_dtype, output_dtype, rounding_mode
        if bits > 32:
            return convert(input, *rest)
        codes = np.ascontiguousarray(input).view(f"uint{bits}")
        if bits > TABLE_BITS:
            return of_float32(convert, codes, rest).reshape(input.shape)
        key = (input_dtype.name, output_dtype.name, rounding_mode)
        if key not in tables:
            tables[key] = convert(np.arange(1 << bits, dtype=f"uint{bits}"), *rest)
        return tables[key][codes].reshape(input.shape)

    return converted


def of_float32(convert: Function, codes: Any, rest: tuple[Any, Any, Any]) -> Any:
    """Return what `convert` makes of uint32 codes of float32 numbers. rest: its other arguments."""
    is_number = codes << 1 != 0  # neither 0 nor -0
    if rest[1] is tl.bfloat16 and rest[2] is None:
        is_subnormal = (codes & 0x7F800000 == 0) & is_number
        if not is_subnormal.any():  # exponents stay, and Triton drops the bits that do not fit
            return (codes >> 16).astype(np.uint16)
    if is_number.all():
        return convert(codes, *rest)
    converted = convert(np.array([0, 1 << 31], dtype=np.uint32), *rest)[codes >> 31]
    if is_number.any():
        converted[is_number] = convert(codes[is_number], *rest)
    return converted
