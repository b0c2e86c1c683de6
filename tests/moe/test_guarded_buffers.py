"""Poison that shows in every dtype, guards on both sides, and nothing of it outside."""

import pytest
import torch

from moe import guarded_buffers

FLOATS = (
    torch.bfloat16,
    torch.float16,
    torch.float32,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.float8_e4m3fnuz,  # its only NaN has a bit pattern of its own
    torch.float8_e5m2fnuz,
)
INTS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)


def fresh(shape=(3, 5), dtype=torch.float32):
    return guarded_buffers.empty(shape, dtype=dtype, device="cpu")


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_float_nobody_wrote_is_nan(dtype):
    with guarded_buffers.poisoned():
        buffer = fresh(dtype=dtype)
    assert (buffer.dtype, buffer.shape) == (dtype, (3, 5))
    assert bool(buffer.float().isnan().all())


@pytest.mark.parametrize("dtype", INTS, ids=str)
def test_an_integer_nobody_wrote_is_large_and_never_padding(dtype):
    with guarded_buffers.poisoned():
        buffer = fresh(dtype=dtype)
    top = torch.iinfo(dtype).max
    assert bool((buffer > top // 3).all())
    assert not bool((buffer == -1).any())


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_an_index_nobody_wrote_can_be_one_of_another_row(dtype):
    with guarded_buffers.poisoned(small_indices=True):
        assert bool((fresh(dtype=dtype) == 1).all())
        assert bool(fresh().isnan().all())
        assert bool((fresh(dtype=torch.uint8) == 0x7F).all()), "codes, not indices"
        with guarded_buffers.poisoned():
            assert bool((fresh(dtype=dtype) > 1).all())
        assert bool((fresh(dtype=dtype) == 1).all())


@pytest.mark.parametrize("shape", [(), (0, 7), (1,), (2, 3, 4)])
def test_any_shape_comes_contiguous_and_guarded(shape):
    with guarded_buffers.poisoned():
        buffer = fresh(shape)
        buffer.fill_(0.0)  # all of it, and no guard changes
        assert guarded_buffers.broken_guards() == []
    assert (tuple(buffer.shape), buffer.is_contiguous()) == (shape, True)
    assert buffer.data_ptr() % 16 == 0


def neighbours(buffer, offset):
    """The bytes of the buffer's storage from `offset` bytes after its first one."""
    raw = torch.empty(0, dtype=torch.uint8).set_(buffer.untyped_storage())
    return raw[guarded_buffers.GUARD_BYTES + offset :]


def test_a_write_past_the_end_is_found_with_its_size():
    with guarded_buffers.poisoned():
        fresh()
        buffer = fresh((4,))  # 16 bytes
        neighbours(buffer, 16)[:3] = 0
        assert guarded_buffers.broken_guards() == [
            "3 bytes after a buffer of 16 bytes were overwritten",
        ]


def test_a_write_before_the_start_is_found():
    with guarded_buffers.poisoned():
        buffer = fresh((4,))
        neighbours(buffer, -1)[0] = 0
        assert guarded_buffers.broken_guards() == [
            "1 bytes before a buffer of 16 bytes were overwritten"
        ]


def test_a_kernel_that_runs_on_by_one_row_is_found():
    """As a kernel would: a larger view of the same memory, written in the buffer's dtype."""
    with guarded_buffers.poisoned():
        buffer = fresh((2, 8), torch.bfloat16)
        torch.as_strided(buffer, (3, 8), (8, 1)).fill_(1.0)
        (text,) = guarded_buffers.broken_guards()
    assert text == "16 bytes after a buffer of 32 bytes were overwritten"


def test_outside_there_is_neither_poison_nor_guard():
    with guarded_buffers.poisoned():
        pass
    buffer = fresh((64,))
    assert buffer.untyped_storage().nbytes() == 256
    assert guarded_buffers.broken_guards() == []


def test_the_poison_ends_with_an_exception():
    with pytest.raises(KeyError), guarded_buffers.poisoned():
        raise KeyError
    assert fresh((64,)).untyped_storage().nbytes() == 256


def test_an_inner_region_keeps_its_own_buffers():
    with guarded_buffers.poisoned():
        outer = fresh((1,))
        with guarded_buffers.poisoned():
            neighbours(fresh((2,)), 8)[0] = 0
            assert guarded_buffers.broken_guards() == [
                "1 bytes after a buffer of 8 bytes were overwritten"
            ]
        assert guarded_buffers.broken_guards() == []
        neighbours(outer, 4)[0] = 0
        assert guarded_buffers.broken_guards() == [
            "1 bytes after a buffer of 4 bytes were overwritten"
        ]
        assert bool(fresh().isnan().all()), "the outer region goes on"
