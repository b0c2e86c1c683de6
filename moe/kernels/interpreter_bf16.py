"""Compute with bfloat16 as chips do where Triton's interpreter does not: for kernels of packages.

Interpreted, a bfloat16 number is an integer of 16 bits. Products and sums of tensors multiply and
add these integers, a cast from float32 drops bits, and one to fp8 can lose a carry. A chip computes
in float32 and rounds to the nearest number, ties to even. This project's kernels avoid all of it;
those of other packages do not know of it.
"""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Function = Any  # of Triton, or in place of one
_FLOAT32 = np.dtype(np.float32)
_TARGETS = {
    tl.bfloat16: (torch.bfloat16, torch.int16, np.uint16),
    tl.float8e4nv: (torch.float8_e4m3fn, torch.uint8, np.uint8),
    tl.float8e5: (torch.float8_e5m2, torch.uint8, np.uint8),
}


@contextmanager
def chip_arithmetic() -> Iterator[None]:
    """Interpret with sums, products and casts rounded as a chip rounds them. Not thread-safe.

    A function of another version of Triton, with other parameters, is left as it is.
    """
    originals = [(owner, name, getattr(owner, name)) for owner, name, _ in _replaced()]
    try:
        for (owner, name, replace), (_, _, original) in zip(_replaced(), originals, strict=True):
            setattr(owner, name, replace(original))
        yield
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def _replaced() -> tuple[tuple[Any, str, Callable[[Function], Function]], ...]:
    """Return owner, name and replacement of the functions that this version of Triton has."""
    builder = interpreter.InterpreterBuilder
    names = ("input", "input_dtype", "output_dtype", "rounding_mode")
    known = (
        (interpreter, "_convert_float", names, rounding),
        (builder, "binary_op", ("self", "lhs", "rhs", "op"), in_float32),
        (builder, "unary_op", ("self", "arg", "op"), in_float32),
        (
            builder,
            "create_dot",
            ("self", "a", "b", "d", "input_precision", "max_num_imprecise_acc"),
            widened_dot,
        ),
    )
    return tuple(
        (owner, name, replace)
        for owner, name, parameters, replace in known
        if hasattr(owner, name)
        and tuple(inspect.signature(getattr(owner, name)).parameters) == parameters
    )


def rounding(convert: Function) -> Function:
    """Return `_convert_float` with casts from float32 rounded, unless they ask for another mode."""
    toward_zero = interpreter._ir.ROUNDING_MODE.RTZ

    def rounded(input: Any, input_dtype: Any, output_dtype: Any, rounding_mode: Any) -> Any:  # noqa: A002
        if input_dtype != tl.float32 or rounding_mode == toward_zero:
            return convert(input, input_dtype, output_dtype, rounding_mode)
        if output_dtype not in _TARGETS:
            return convert(input, input_dtype, output_dtype, rounding_mode)
        return nearest(np.ascontiguousarray(input).view(np.float32), output_dtype)

    return rounded


def nearest(values: Any, dtype: Any) -> Any:
    """Return the bits of float32 numbers rounded to bfloat16 or fp8; too large for fp8: clamped."""
    target, as_bits, codes = _TARGETS[dtype]
    numbers = torch.from_numpy(np.array(values))
    if target.itemsize == 1:
        largest = torch.finfo(target).max
        numbers = numbers.clamp(-largest, largest)  # NaN stays NaN
    return numbers.to(target).view(as_bits).numpy().view(codes)


def in_float32(compute: Function) -> Function:
    """Return `binary_op` or `unary_op` with bfloat16 computed in float32 and rounded."""

    def computed(self: Any, *arguments: Any) -> Any:
        *operands, op = arguments
        if any(operand.dtype.scalar != tl.bfloat16 for operand in operands):
            return compute(self, *arguments)
        result = op(*(_values(operand.data) for operand in operands))
        if result.dtype == _FLOAT32:
            result = nearest(result, tl.bfloat16)
        return interpreter.TensorHandle(result, tl.bfloat16)

    return computed


def widened_dot(dot: Function) -> Function:
    """Return `create_dot` with operands in bfloat16 multiplied as float32 numbers."""

    def multiplied(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        wide = (
            interpreter.TensorHandle(_values(x.data), tl.float32)
            if x.dtype.scalar == tl.bfloat16
            else x
            for x in (a, b)
        )
        return dot(self, *wide, *rest)

    return multiplied


def _values(bits: Any) -> Any:
    """Return bfloat16 numbers, given as integers of 16 bits, as float32 numbers."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
