"""What is recorded of an operation: its steps, its constants, and whether it can be repeated."""

import numpy as np
import pytest
import triton.language as tl
from triton.runtime.interpreter import TensorHandle, interpreter_builder

from moe.kernels import launch
from moe.kernels.interpreter_recording import RecordedHandle, Recording, RecordingBuilder
from tests.moe.kernels.pinned_triton import pinned_triton

pytestmark = pytest.mark.skipif(not launch.INTERPRETED, reason="kernels are compiled here")


def _handle(*numbers):
    return TensorHandle(np.array(numbers, dtype=np.float32), tl.float32)


@pytest.fixture
def recording():
    return Recording(count=2)


@pytest.fixture
def builder(recording):
    return RecordingBuilder(interpreter_builder, recording)


def test_steps_name_the_handles_that_they_take(builder, recording):
    x, y = (RecordedHandle(_handle(n, n), i, recording) for i, n in enumerate((2.0, 3.0)))
    product = builder.create_fmul(builder.create_fadd(x, y), y)
    assert product.data.tolist() == [15, 15]
    assert product.number == 3  # after two inputs and the sum
    assert [step.places for step in recording.steps] == [((0, 0), (1, 1)), ((0, 2), (1, 1))]
    assert recording.is_repeatable


def test_constants_are_kept_and_what_may_change_is_a_step(builder, recording, monkeypatch):
    constant = builder.get_fp32(2.5)
    assert (constant.number, recording.steps) == (None, [])
    small, large = (
        builder.create_splat(tl.block_type(tl.float32, [n]), constant) for n in (4, 2048)
    )
    assert (small.number, large.number) == (None, 2), "large constants take memory"
    assert recording.steps[0].arguments[1] is constant.handle
    monkeypatch.setattr(interpreter_builder, "grid_idx", (1, 0, 0), raising=False)
    assert builder.create_get_program_id(0).number == 3


def test_who_reads_a_single_number_may_decide_by_it(recording):
    assert RecordedHandle(_handle(1.0), None, recording).data.item() == 1
    assert len(RecordedHandle(_handle(1.0, 2.0), 0, recording).data) == 2
    assert recording.is_repeatable, "a constant, and a block that says nothing of its type"
    assert RecordedHandle(_handle(1.0), 1, recording).data.item() == 1
    assert not recording.is_repeatable


@pytest.mark.parametrize("kind", ["unknown", pytest.param("in a list", marks=pinned_triton)])
def test_handles_that_no_step_can_put_in_again_are_not_repeated(builder, recording, kind):
    known = RecordedHandle(_handle(1.0, 2.0), 0, recording)
    if kind == "unknown":
        assert builder.create_fadd(known, _handle(1.0, 1.0)).data.tolist() == [2, 3]
    else:
        with pytest.raises(AttributeError):  # the builder takes no lists here
            builder.create_fneg([known])
    assert not recording.is_repeatable
