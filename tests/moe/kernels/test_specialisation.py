"""The line that names the binary of a launch."""

from types import SimpleNamespace

import pytest
import torch

from moe.experts import EXPERTS
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


def test_rows_name_kernels_that_there_are():
    files = {"_count": "align", "_place": "align", "_grouped_gemm": "grouped_gemm"}
    files |= {"_combine": "combine", "_batched_gemm": "batched_gemm"}
    ours = (row for row in EXPERTS.built_in if row.target.startswith("moe.experts.triton"))
    assert {name for row in ours for name in row.launches} == set(files)
    for name, file in files.items():
        assert resolve(f"moe.kernels.{file}:{name}").__name__ == name
