"""Say in words what is wrong with an output: which rows, by how much, and between which values."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import torch

from harness.record.formatting import numbers_text

if TYPE_CHECKING:
    from torch import Tensor

    from harness.checks.row_errors import RowErrors

LARGEST_EXCESS = 1e9  # times a tolerance; an error beyond it is not finite, or next to no tolerance


def interpreter_hint(dtype: torch.dtype) -> str:
    """Return that a right Triton kernel may be cut off here; empty where none is interpreted.

    dtype: of the outputs. Triton's interpreter truncates float32 where a kernel casts it to bf16.
    """
    if dtype is not torch.bfloat16 or os.environ.get("TRITON_INTERPRET") != "1":
        return ""
    return (
        "; if it is a Triton kernel that casts to bf16: the interpreter, which runs kernels "
        "without a GPU, truncates there. Round by moe.kernels.rounding.to_model_dtype, or run it "
        "on a GPU"
    )


def not_finite(values: Tensor) -> str | None:
    """Describe where NaN and Inf are, or return None. values: [T, K].

    Rows of NaN only were likely not written.
    """
    broken = ~values.isfinite()
    if not broken.any():
        return None
    rows = broken.any(dim=1).nonzero().flatten()
    unwritten = values.isnan().all(dim=1)
    first_row = int(rows[0])
    first_column = int(broken[first_row].nonzero()[0])
    message = (
        f"{int(values.isnan().sum())} NaN and {int(values.isinf().sum())} Inf of {values.numel()} "
        f"elements, in {len(rows)} of {len(values)} rows {row_numbers(rows.tolist())}, "
        f"first at [{first_row}, {first_column}]"
    )
    if unwritten.any():
        unwritten_rows = row_numbers(unwritten.nonzero().flatten().tolist())
        message += f"; rows {unwritten_rows} are all NaN: never written, or computed from NaN"
    return message


def rows_text(actual: Tensor, expected: Tensor, rows: RowErrors, exceeding: Tensor) -> str:
    """Describe the rows beyond their tolerance, and the worst element of the worst of them.

    actual, expected: [T, K]. exceeding: [rows] int64, their numbers.
    """
    worst = int(rows.used.argmax())
    values = actual[worst].to(expected.dtype)
    column = int((values - expected[worst]).abs().argmax())
    message = (
        f"{len(exceeding)} of {len(actual)} rows wrong {row_numbers(exceeding.tolist())}; "
        f"worst row {worst}: {_error_text(rows, worst)}; element [{worst}, {column}] is "
        f"{float(values[column]):.6g}, expected {float(expected[worst, column]):.6g}"
    )
    zero_rows = (rows.actual == 0) & (rows.reference > 0)
    if zero_rows.any():
        message += f"; rows {row_numbers(zero_rows.nonzero().flatten().tolist())} are all zero"
    return message


def _error_text(rows: RowErrors, row: int) -> str:
    if float(rows.reference[row]) == 0:
        return "expected all zeros"
    error = f"relative rms error {float(rows.relative_error[row]):.3g}"
    if float(rows.tolerance[row]) == 0:
        return f"{error}, expected to be exact"
    used = float(rows.used[row])
    return f"{error}, {used:.3g}x its tolerance" if used < LARGEST_EXCESS else error


def value_ranges(actual: Tensor, expected: Tensor, metrics: dict[str, float]) -> str:
    """Describe the ranges of the values, [T, K] each, and the error over all rows."""
    return (
        f"values {float(actual.min()):.4g}..{float(actual.max()):.4g}, expected "
        f"{float(expected.min()):.4g}..{float(expected.max()):.4g}; relative rms error "
        f"{metrics['rel_rms']:.4g}, 1 - cosine {metrics['one_minus_cosine']:.3g}"
    )


def row_numbers(numbers: list[int]) -> str:
    """Return numbers of rows in parentheses, neighbours joined: (3, 7-8)."""
    return f"({numbers_text(numbers)})"
