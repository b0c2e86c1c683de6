"""Compute addresses of an interpreted kernel's tiles and load large ones in few steps of numpy.

Triton's interpreter loads number by number, with checks for each. It also fills a whole array with
one number, and with each row of addresses, before it adds them. Here numpy loads all numbers of a
tile at once, and what repeats along a dimension is computed once: the same bits in a fraction of
the time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter

if TYPE_CHECKING:
    from numpy.typing import NDArray

Function = Any  # of Triton, or in place of one
FEWEST = 1024  # numbers of a tile that numpy loads sooner


class Memory:
    """Stand for `count` numbers of memory at an address, as numpy reads it from an attribute."""

    __slots__ = ("__array_interface__",)

    def __init__(self, address: int, count: int, dtype: np.dtype[Any]) -> None:
        """Describe the memory."""
        self.__array_interface__ = {
            "data": (address, True),  # read only
            "shape": (count,),
            "typestr": dtype.str,
            "version": 3,
        }


def masked_loads(load: Function) -> Function:
    """Return `create_masked_load` that loads large tiles by `loaded`."""

    def create_masked_load(
        self: Any, ptrs: Any, mask: Any, other: Any, cache_policy: Any, is_volatile: Any
    ) -> Any:
        if ptrs.data.size >= FEWEST:
            others = None if other is None else other.data
            handle = _loaded_handle(ptrs, mask.data, others)
            if handle is not None:
                return handle
        return load(self, ptrs, mask, other, cache_policy, is_volatile)

    return create_masked_load


def loads(load: Function) -> Function:
    """Return `create_load` that loads large tiles by `loaded`."""

    def create_load(self: Any, ptr: Any, cache_policy: Any, is_volatile: Any) -> Any:
        if ptr.data.size >= FEWEST:
            handle = _loaded_handle(ptr, None, None)
            if handle is not None:
                return handle
        return load(self, ptr, cache_policy, is_volatile)

    return create_load


def _loaded_handle(ptrs: Any, mask: NDArray[Any] | None, other: NDArray[Any] | None) -> Any:
    """Return the handle of a loaded tile, or None where `loaded` returns None."""
    of_type = ptrs.get_element_ty()
    dtype = np.dtype(interpreter._get_np_dtype(of_type))
    values = loaded(ptrs.data, mask, other, dtype)
    return None if values is None else interpreter.TensorHandle(values, of_type)


def loaded(
    pointers: NDArray[np.uint64],
    mask: NDArray[np.bool_] | None,
    other: NDArray[Any] | None,
    dtype: np.dtype[Any],
) -> NDArray[Any] | None:
    """Return the numbers at the pointers, and `other` (None: zeros) where `mask` is False.

    All have the same shape; no mask: all are loaded. Where `mask` is False nothing is read. None:
    no number is to be read, or the pointers are not whole numbers of items apart.
    """
    is_masked = mask is not None and not mask.all()
    if mask is not None and is_masked:
        start = int(mask.argmax())
        if not mask.flat[start]:
            return None
        pointers = np.where(mask, pointers, pointers.flat[start])
    first = pointers.min()
    offsets = pointers - first
    if dtype.itemsize > 1:
        if int(np.bitwise_or.reduce(offsets, axis=None)) % dtype.itemsize:
            return None
        offsets >>= np.uint64(dtype.itemsize.bit_length() - 1)
    places = offsets.view(np.int64)
    values: NDArray[Any] = np.asarray(Memory(int(first), int(places.max()) + 1, dtype))[places]
    if mask is None or not is_masked:
        return values
    return np.where(mask, values, np.zeros((), dtype) if other is None else other)


def pointer_sums(_: Function) -> Function:
    """Return `create_addptr` that computes offsets once along dimensions in which they repeat."""

    def create_addptr(_self: Any, ptr: Any, offset: Any) -> Any:
        item = max(1, ptr.get_element_ty().primitive_bitwidth // 8)
        offsets = without_repeats(offset.data).astype(np.uint64)
        if item > 1:
            offsets = offsets * np.uint64(item)
        total = without_repeats(ptr.data) + offsets
        if total.shape != offset.data.shape:
            total = np.broadcast_to(total, offset.data.shape)
        return interpreter.TensorHandle(total, ptr.dtype)

    return create_addptr


def without_repeats(values: NDArray[Any]) -> NDArray[Any]:
    """Return a view with size 1 in each dimension along which all values are one in memory."""
    if 0 not in values.strides:
        return values
    return values[tuple(slice(0, 1) if step == 0 else slice(None) for step in values.strides)]


def splats(splat: Function) -> Function:
    """Return `create_splat` whose tensors have one number in memory."""

    def create_splat(self: Any, ret_ty: Any, arg: Any) -> Any:
        if isinstance(arg.dtype, tl.block_type) or arg.data.size != 1:
            return splat(self, ret_ty, arg)
        dtype = np.dtype(interpreter._get_np_dtype(arg.dtype))
        number = arg.data.astype(dtype, copy=False)
        shape = tuple(ret_ty.shape)
        repeated: NDArray[Any] = np.ndarray(shape, dtype, number, strides=(0,) * len(shape))
        return interpreter.TensorHandle(repeated, arg.dtype.scalar)

    return create_splat


def expansions(expand: Function) -> Function:
    """Return `create_expand_dims`, whose view numpy makes sooner by its new shape."""

    def create_expand_dims(self: Any, arg: Any, axis: int) -> Any:
        if axis < 0:
            return expand(self, arg, axis)
        shape = arg.data.shape
        expanded = arg.data.reshape(*shape[:axis], 1, *shape[axis:])
        return interpreter.TensorHandle(expanded, arg.dtype.scalar)

    return create_expand_dims
