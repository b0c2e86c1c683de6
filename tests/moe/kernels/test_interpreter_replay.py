"""Repeated operations give the bits of Triton's interpreter; others are left to it."""

from contextlib import nullcontext

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime import interpreter as of_triton

from moe.kernels import interpreter, interpreter_replay, launch
from tests.moe.kernels.pinned_triton import pinned_triton

pytestmark = pytest.mark.skipif(not launch.INTERPRETED, reason="kernels are compiled here")


@triton.jit
def _operations(x_ptr, out_ptr, size, FACTOR: tl.constexpr, BLOCK: tl.constexpr):
    """Two programs, each with sums, comparisons, casts, reshapes, products and a split."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + at, mask=at < size, other=-0.0)
    y = x * x + x * FACTOR - (at % 3)
    y = tl.where(x > y, y.to(tl.bfloat16).to(tl.float32), tl.abs(x))
    square = tl.reshape(y, (16, BLOCK // 16))
    product = tl.dot(square, tl.trans(square), input_precision="ieee")
    even, odd = tl.split(tl.reshape(product, (16, 8, 2)))
    total = tl.sum(even / (odd * odd + 1.0), axis=1)[:, None] + tl.join(even, odd).reshape(16, 16)
    tl.store(out_ptr + at, tl.reshape(total, (256,)), mask=at < 2 * size)


def _run(factor=2.0):
    generator = torch.Generator().manual_seed(5)
    x, out = torch.randn(600, generator=generator), torch.zeros(600)
    launch.launch(_operations, (2,), x.device, x, out, 300, FACTOR=factor, BLOCK=256)
    return out


def test_repeated_operations_give_the_same_bits_as_triton(monkeypatch):
    count, repeat = [], interpreter_replay.repeat
    monkeypatch.setattr(interpreter_replay, "repeat", lambda *a: count.append(1) or repeat(*a))
    factors = [2.0, 0.5, 2.0, 2, True, -0.0, 0.0]
    first = [_run(factor) for factor in factors]
    repeated = [_run(factor) for factor in factors]
    assert len(count) > 200, "hardly an operation was repeated"
    monkeypatch.setattr(interpreter, "spared", nullcontext)
    for factor, *outs in zip(factors, first, repeated, strict=True):
        assert all(torch.equal(out, _run(factor)) for out in outs), factor


@pytest.fixture
def operation():
    """A builtin of the language as kernels call it, while the language is replaced."""
    with interpreter.spared():
        scope = of_triton._patch_lang(_operations.fn)
        try:
            yield lambda member: interpreter_replay.operation_of(
                member, of_triton.interpreter_builder
            )
        finally:
            scope.restore()


def _tensor(*numbers):
    """A tensor of the interpreter, or its scalar."""
    data = torch.tensor(numbers, dtype=torch.float32).numpy()
    of_type = tl.float32 if len(numbers) == 1 else tl.block_type(tl.float32, [len(numbers)])
    return tl.tensor(of_triton.TensorHandle(data, tl.float32), of_type)


def _numbers(tensor):
    return tensor.handle.data.tolist()


def test_a_tensor_with_itself_is_recorded_as_two(operation):
    mul, x, y = operation(MUL), _tensor(2.0, 3.0), _tensor(5.0, 7.0)
    products = [_numbers(mul(a, b)) for a, b in ((x, x), (x, y), (y, x))]
    assert products == [[4, 9], [10, 21], [10, 21]]


@pinned_triton
def test_constants_that_are_equal_are_told_apart(operation):
    """An int becomes an int32, a bool an int1, and 1 / -0.0 is not 1 / 0.0."""
    full = operation(FULL)
    numbers = [1, True, 1.0, 0.0, -0.0, tl.constexpr(-0.0)]
    for _ in range(2):
        got = [full([2], number, tl.float32).handle.data.tobytes() for number in numbers]
        assert got[:3] == [got[0]] * 3
        assert got[3] != got[4] == got[5]
    add, of_floats = operation(ADD), _tensor(1.0, 2.0)
    ints = tl.tensor(of_triton.TensorHandle(torch.tensor([1, 2]).numpy(), tl.int64), BLOCK_OF_INTS)
    for _ in range(2):
        assert [str(add(ints, n).type.element_ty) for n in (1, 1.0)] == ["int64", "fp32"]
        assert str(add(of_floats, True).type.element_ty) == "fp32"
        assert [str(add(BOOL, n).type) for n in (1, True)] == ["int32", "int1"]


def test_an_operation_that_looks_at_a_number_is_left_to_triton(operation, monkeypatch):
    """Triton omits `other` where it is a single zero: that must not hold for the next number."""
    monkeypatch.setattr(interpreter_replay, "repeat", lambda *args: pytest.fail("repeated"))
    load, value = operation(LOAD), torch.tensor([3.0])
    pointer = tl.tensor(
        of_triton.TensorHandle(torch.tensor([value.data_ptr()]).numpy().view("uint64"), POINTER),
        POINTER,
    )
    no = tl.tensor(of_triton.TensorHandle(torch.tensor([False]).numpy(), tl.int1), tl.int1)
    for other in (0.0, 7.0, 0.0, 8.0):
        assert _numbers(load(pointer, mask=no, other=_tensor(other))) == [other]


def test_what_returns_its_argument_returns_the_next_one_too(operation):
    cast, x, y = operation(CAST), _tensor(1.0, 2.0), _tensor(3.0, 4.0)
    assert cast(x, tl.float32) is x
    assert cast(y, tl.float32) is y


def test_an_error_is_raised_each_time_and_nothing_stays_active(operation):
    add = operation(ADD)
    for _ in range(2):
        with pytest.raises(ValueError, match="incompatible"):
            add(_tensor(1.0, 2.0), _tensor(1.0, 2.0, 3.0, 4.0))
        assert _numbers(add(_tensor(1.0, 2.0), _tensor(1.0, 2.0))) == [2, 4]
    assert not interpreter_replay._active


def test_arguments_that_no_key_stands_for_are_left_to_triton(operation, monkeypatch):
    monkeypatch.setattr(interpreter_replay, "repeat", lambda *args: pytest.fail("repeated"))
    seen = []
    odd = operation(lambda value, _semantic: seen.append(value) or len(seen))
    function = print
    assert [odd(function), odd((_tensor(1.0),))] == [1, 2]
    assert seen[0] is function


def test_recordings_are_dropped_when_there_are_too_many(operation, monkeypatch):
    monkeypatch.setattr(interpreter_replay, "MOST_RECORDINGS", 3)
    count, recorded = [], interpreter_replay.recorded
    monkeypatch.setattr(interpreter_replay, "recorded", lambda *a: count.append(1) or recorded(*a))
    add, x = operation(ADD), _tensor(1.0, 2.0)
    for number in (1, 2, 3, 1, 4, 1):
        assert _numbers(add(x, number)) == [1 + number, 2 + number]
    assert len(count) == 5  # 1, 2, 3; 4 drops them; 1 again


ADD, MUL, CAST, FULL, LOAD = tl.core.add, tl.core.mul, tl.core.cast, tl.core.full, tl.core.load
POINTER = tl.pointer_type(tl.float32)
BOOL = tl.tensor(of_triton.TensorHandle(torch.tensor([True]).numpy(), tl.int1), tl.int1)
BLOCK_OF_INTS = tl.block_type(tl.int64, [2])
