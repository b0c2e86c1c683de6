"""What is remembered is what Triton's interpreter computes, for every argument."""

import numpy as np
import pytest
import triton.language as tl
from triton._C.libtriton import ir
from triton.runtime import interpreter

from moe.kernels import interpreter_memory, launch
from tests.moe.kernels.pinned_triton import pinned_triton

pytestmark = pytest.mark.skipif(not launch.INTERPRETED, reason="kernels are compiled here")
PAIRS = [
    *((tl.bfloat16, tl.float32), (tl.float8e4nv, tl.float32), (tl.float8e4nv, tl.float16)),
    *((tl.float8e4b8, tl.float16), (tl.float8e5, tl.float32), (tl.float16, tl.float32)),
]


def by_name() -> dict[str, object]:
    """The replacements, by owner and name."""
    return {f"{o.__name__}.{n}": value for o, n, value in interpreter_memory.replacements()}


@pinned_triton
def test_this_version_has_all_functions_that_are_replaced():
    assert list(by_name()) == [
        *("block_type.__init__", "dtype.__eq__", "tensor.__init__"),
        *("triton.runtime.interpreter._get_np_dtype", "triton.runtime.interpreter._convert_float"),
        "triton.runtime.interpreter._patch_lang_tensor",
        "triton.runtime.interpreter._patch_attr",
        *("InterpreterBuilder.create_load", "InterpreterBuilder.create_masked_load"),
        *("InterpreterBuilder.create_addptr", "InterpreterBuilder.create_splat"),
        "InterpreterBuilder.create_expand_dims",
    ]


def test_every_short_number_is_converted_as_triton_does():
    convert = interpreter._convert_float
    converted = interpreter_memory.conversions(convert)
    for source, target in PAIRS:
        bits = source.primitive_bitwidth
        numbers = np.arange(1 << bits, dtype=f"uint{bits}").reshape(2, -1)
        for some in (numbers, numbers[:, ::3], numbers.T, numbers[0, 5]):
            wanted, got = (f(some, source, target, None) for f in (convert, converted))
            assert got.dtype == wanted.dtype
            assert np.array_equal(got, wanted)
            assert got.shape == wanted.shape


MODES = None, ir.ROUNDING_MODE.RTNE, ir.ROUNDING_MODE.RTZ


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_float32_numbers_are_converted_as_triton_does(mode):
    """Zeros, subnormals, infinities and NaNs, with others and without."""
    convert = interpreter._convert_float
    converted = interpreter_memory.conversions(convert)
    parts = np.array([0, 1, 1 << 22, (1 << 23) - 1, 3 << 15], dtype="uint32")
    positive = ((np.arange(256, dtype="uint32") << 23)[:, None] | parts).ravel()
    numbers = np.concatenate([positive, positive | np.uint32(1 << 31)])
    is_zero, is_small = numbers << 1 == 0, numbers << 1 >> 24 == 0
    assert (is_zero.sum(), is_small.sum()) == (2, 10)
    parts_of_them = (numbers.reshape(2, -1), numbers[~is_small | is_zero], numbers[~is_zero])
    for target in (tl.bfloat16, tl.float16, tl.float8e4nv, tl.float8e4b8, tl.float8e5):
        for some in (*parts_of_them, numbers[is_zero], numbers[:1].reshape(1, 1), numbers[7:7]):
            rest = some.view("float32"), tl.float32, target, mode
            wanted, got = convert(*rest), converted(*rest)
            assert got.dtype == wanted.dtype
            assert np.array_equal(got, wanted)
            assert got.shape == wanted.shape


def test_float64_numbers_are_converted_by_triton():
    called = []
    converted = interpreter_memory.conversions(lambda *args: called.append(args))
    numbers = np.ones(3, dtype="float64")
    assert converted(numbers, tl.float64, tl.bfloat16, None) is None
    assert called == [(numbers, tl.float64, tl.bfloat16, None)]


@pytest.mark.parametrize("element", [tl.int8, tl.bfloat16, tl.pointer_type(tl.float32)], ids=str)
@pytest.mark.parametrize("shape", [[16], [tl.constexpr(4), 8], tl.core.tuple([2, 1, 2])], ids=str)
def test_types_and_tensors_have_the_same_fields_each_time(element, shape):
    types = interpreter_memory.block_types(tl.block_type.__init__)
    tensors = interpreter_memory.tensors(tl.tensor.__init__)
    wanted = tl.block_type(element, shape)
    for number in range(2):
        of_type, tensor = object.__new__(tl.block_type), object.__new__(tl.tensor)
        types(of_type, element, shape)
        assert vars(of_type) == vars(wanted)
        tensors(tensor, number, of_type)
        by_triton = vars(tl.tensor(number, wanted))
        assert str({name: vars(tensor)[name] for name in by_triton}) == str(by_triton)
        assert tensor.type is of_type
    assert of_type.element_ty is element


def test_a_shape_that_triton_refuses_is_refused_each_time():
    types = interpreter_memory.block_types(tl.block_type.__init__)
    for _ in range(2):
        with pytest.raises(ValueError, match="power of 2"):
            types(object.__new__(tl.block_type), tl.int8, [3])


def test_equality_and_dtypes_are_those_of_triton():
    equal = interpreter_memory.equalities(tl.dtype.__eq__)
    find = interpreter._get_np_dtype
    found = interpreter_memory.numpy_dtypes(find)
    scalars = [tl.int1, tl.int8, tl.uint8, tl.int32, tl.int64, tl.bfloat16, tl.float32]
    for a in scalars:
        assert [bool(equal(a, b)) for b in scalars] == [a == b for b in scalars]
        for t in (a, tl.block_type(a, [4, 2]), tl.pointer_type(a)):
            assert [found(t), found(t)] == [find(t)] * 2


@pinned_triton
def test_a_function_with_other_parameters_is_left_alone(monkeypatch):
    monkeypatch.setattr(interpreter, "_convert_float", lambda number, dtype: number)
    monkeypatch.delattr(interpreter, "_get_np_dtype")
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_splat", lambda self, arg: arg)
    names = [name for _, name, _ in interpreter_memory.replacements.__wrapped__()]
    assert names == [
        *("__init__", "__eq__", "__init__", "_patch_lang_tensor", "_patch_attr"),
        *("create_load", "create_masked_load", "create_addptr", "create_expand_dims"),
    ]
