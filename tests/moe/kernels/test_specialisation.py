"""The line that names the binary of a launch, and the record of launches."""

from types import SimpleNamespace

import pytest
import torch

from moe.experts import EXPERTS
from moe.kernels import combine as combine_module
from moe.kernels import launch
from moe.kernels.combine import combine
from moe.kernels.specialisation import specialisation_of
from moe.need import resolve

KERNEL = SimpleNamespace(__name__="_kernel")
HALF, WHOLE = (torch.zeros(3, dtype=dtype) for dtype in (torch.float16, torch.int32))


@pytest.mark.parametrize(
    ("args", "options", "line"),
    [
        ((HALF, None, WHOLE, 5, 1.0), {}, "_kernel(float16 - int32)"),
        ((HALF, 7), {"BLOCK_M": 16}, "_kernel(float16) [BLOCK_M=16]"),
        ((HALF,), {"KIND": "fp8", "ROWS": 4}, "_kernel(float16; KIND=fp8) [ROWS=4]"),
        (
            (),
            {"EVEN": True, "LIMIT": None, "ALPHA": 1.5},
            "_kernel(EVEN=True LIMIT=None ALPHA=1.5)",
        ),
        ((), {"SPAN": 4, "num_warps": 8}, "_kernel(SPAN=4) [num_warps=8]"),
    ],
)
def test_choices_are_before_the_brackets_and_sizes_inside(args, options, line):
    assert specialisation_of(KERNEL, args, options) == line


def test_equal_launches_have_one_line_and_others_another():
    first = specialisation_of(KERNEL, (HALF, 3), {"ROWS": 4})
    assert specialisation_of(KERNEL, (HALF.new_zeros(9), 8), {"ROWS": 4}) is first
    assert specialisation_of(KERNEL, (HALF, 3), {"ROWS": 8}) != first
    assert specialisation_of(KERNEL, (WHOLE, 3), {"ROWS": 4}) != first


def launch_one(device):
    one = torch.ones(1, 1, device=device)
    combine(one, one, torch.zeros(1, 1, dtype=torch.int32, device=device))


def test_launches_are_recorded_inside_only_and_in_each_record(kernel_device):
    launch_one(kernel_device)
    with launch.observed() as outer:
        with launch.observed() as inner:
            pass
        launch_one(kernel_device)
        launch_one(kernel_device)
    launch_one(kernel_device)
    (line,) = outer
    assert line.startswith("_combine(float32 float32 int32 float32) [SLOTS=1 ")
    assert not inner


def test_a_record_ends_with_an_exception(kernel_device):
    with pytest.raises(RuntimeError, match="stop"), launch.observed() as lines:
        raise RuntimeError("stop")
    launch_one(kernel_device)
    assert not lines


def test_no_programs_are_no_launch(kernel_device):
    with launch.observed() as lines:
        launch.launch(combine_module._combine, (0,), kernel_device)
    assert not lines


def test_rows_name_kernels_that_there_are():
    files = {"_count": "align", "_place": "align", "_grouped_gemm": "grouped_gemm"}
    files |= {"_combine": "combine", "_batched_gemm": "batched_gemm"}
    named = {name for row in EXPERTS.built_in for name in row.launches}
    assert named == set(files)
    for name, file in files.items():
        assert resolve(f"moe.kernels.{file}:{name}").__name__ == name
