"""Tiles have the bits that Triton makes, and no number is read that a mask excludes."""

import numpy as np
import pytest
import torch
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import TensorHandle

from moe.kernels import interpreter_tiles, launch
from moe.kernels.interpreter_memory import TILES
from tests.moe.kernels.pinned_triton import pinned_triton

pytestmark = [
    pinned_triton,
    pytest.mark.skipif(not launch.INTERPRETED, reason="kernels are compiled here"),
]
BUILDER = interpreter.interpreter_builder
TYPES = (tl.int8, tl.uint16, tl.bfloat16, tl.float32, tl.int64, tl.int1)
SHAPE = 48, 64
assert np.prod(SHAPE) >= interpreter_tiles.FEWEST


def both(name):
    """Triton's method of the builder, and what replaces it, bound."""
    triton_method = getattr(interpreter.InterpreterBuilder, name)
    replacing = {method: function for method, _, function in TILES}[name]
    return triton_method.__get__(BUILDER), replacing(triton_method).__get__(BUILDER)


def assert_same(got, wanted):
    assert got.dtype == wanted.dtype
    assert got.data.dtype == wanted.data.dtype
    assert got.data.shape == wanted.data.shape
    assert np.array_equal(got.data.copy().view("uint8"), wanted.data.copy().view("uint8"))


def memory(of_type):
    """Random bytes; numbers of int1 are 0 and 1."""
    bits = torch.randint(0, 2 if of_type is tl.int1 else 256, (1 << 16,), dtype=torch.uint8)
    return bits, max(1, of_type.primitive_bitwidth // 8)


def pointers(of_type, step, shape=SHAPE):
    """Addresses of a tile whose rows are `step` items apart; its memory."""
    bits, item = memory(of_type)
    rows, columns = (np.arange(size, dtype=np.uint64) for size in shape)
    at = bits.data_ptr() + item * (rows[:, None] * step + columns)
    return TensorHandle(at.astype(np.uint64), tl.pointer_type(of_type)), bits


@pytest.mark.parametrize("of_type", TYPES, ids=str)
def test_numbers_are_loaded_as_triton_does(of_type):
    """Row by row and transposed, all of them or where a mask is true, and others elsewhere."""
    load, loads = both("create_load")
    masked, masked_loads = both("create_masked_load")
    numbers, _keep = pointers(of_type, 96)
    for at in (numbers, TensorHandle(numbers.data.T, numbers.dtype)):
        assert_same(loads(at, None, False), load(at, None, False))
        dtype = interpreter._get_np_dtype(of_type)
        other = TensorHandle(np.ones(at.data.shape, dtype=dtype), of_type)
        row = np.arange(at.data.shape[0])[:, None]
        repeated = np.broadcast_to(row < 9, at.data.shape)
        for mask in (at.data % 3 == 0, repeated, row < 0, at.data > 0):
            handle = TensorHandle(np.broadcast_to(mask, at.data.shape), tl.int1)
            for others in (None, other):
                rest = handle, others, None, False
                assert_same(masked_loads(at, *rest), masked(at, *rest))


def test_what_a_mask_excludes_is_not_read():
    """Its address is of no memory: reading it would end the process."""
    _, masked_loads = both("create_masked_load")
    at, bits = pointers(tl.float32, 64)
    mask = np.ones(SHAPE, dtype=bool)
    mask[0], mask[:, -1] = False, False
    at.data[~mask] = np.uint64(8)
    got = masked_loads(at, TensorHandle(mask, tl.int1), None, None, False)
    wanted = bits.numpy().view("float32")[: mask.size].reshape(SHAPE)
    assert np.array_equal(got.data[mask].view("uint32"), wanted[mask].view("uint32"))
    assert not got.data[~mask].any()


def test_pointers_between_items_are_loaded_by_triton():
    numbers, _keep = pointers(tl.float32, 64)
    numbers.data[1::2] += np.uint64(2)
    dtype = np.dtype("float32")
    assert interpreter_tiles.loaded(numbers.data, None, None, dtype) is None
    load, loads = both("create_load")
    assert_same(loads(numbers, None, False), load(numbers, None, False))


@pytest.mark.parametrize("of_type", TYPES, ids=str)
def test_addresses_are_those_of_triton(of_type):
    """Negative offsets too, of 32 and 64 bits, where both, one or none repeat."""
    add, pointer_sums = both("create_addptr")
    rows, columns = np.arange(-3, 4, dtype=np.int32), np.arange(5, dtype=np.int32)
    one = np.array([1 << 40], dtype=np.uint64)
    bases = (one, np.broadcast_to(one, (7, 5)), one + np.arange(35, dtype=np.uint64).reshape(7, 5))
    offsets = (
        *(rows[:, None] * 10 + columns, np.broadcast_to(rows[:, None], (7, 5))),
        *(np.broadcast_to(columns, (7, 5)), np.broadcast_to(np.int32(-9), (7, 5))),
    )
    for base in bases:
        for offset in offsets:
            for wide, name in ((offset, tl.int32), (offset.astype(np.int64), tl.int64)):
                handles = TensorHandle(base, tl.pointer_type(of_type)), TensorHandle(wide, name)
                assert_same(pointer_sums(*handles), add(*handles))


def test_tensors_of_one_number_are_those_of_triton():
    splat, splats = both("create_splat")
    for of_type, number in ((tl.int32, -7), (tl.float32, -0.0), (tl.int1, True), (tl.uint8, 255)):
        dtype = interpreter._get_np_dtype(of_type)
        target = tl.block_type(of_type, [4, 8])
        for data in (np.array([number], dtype=dtype), np.array(number, dtype=dtype)):
            arguments = target, TensorHandle(data, of_type)
            assert_same(splats(*arguments), splat(*arguments))
            assert splats(*arguments).data.strides == (0, 0)


def test_dimensions_of_one_are_those_of_triton():
    expand, expansions = both("create_expand_dims")
    row = np.arange(6, dtype=np.int32)
    for data in (row, row[::2], np.broadcast_to(row[:1], (5,)), row.reshape(2, 3).T):
        for axis in (0, 1, -1):
            handle = TensorHandle(data, tl.int32)
            assert_same(expansions(handle, axis), expand(handle, axis))
            assert np.shares_memory(expansions(handle, axis).data, data)
