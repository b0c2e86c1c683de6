"""`assert_close`: judge an output in any test, without a run of the harness.

The tolerance is computed from the expected tensor's scale, the rounding of the output's dtype and
the length of the sums that the caller declares; it is never absolute. So an all-zero output never
passes, and scaling both sides scales the tolerance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks.output import ROW_FACTOR, judge, row_tolerance
from harness.diagnosis.error_stats import facts
from harness.diagnosis.patterns import find_mismatch, of_columns, of_rows
from harness.record.formatting import amount_text, fact_lines, numbers_text
from harness.record.result import Verdict
from harness.testing.declared_noise import declared
from harness.testing.tolerance import (
    GRIDS,
    Pair,
    Skew,
    as_pair,
    one_sided,
    reference_with_tolerance,
    wrong_elements,
)

if TYPE_CHECKING:
    from torch import Tensor

    from harness.testing.declared_noise import Declared
    from moe.reference.result import Answer

__tracebackhide__ = True  # pytest shows the caller's line, not these

_MAX_MAGNITUDE = 1e150  # largest value whose square, and a sum of them, is finite in float64


def assert_close(
    actual: Tensor,
    expected: Tensor,
    *,
    terms: int | None = None,
    accumulate: str = "f32",
    noise: float = 0.0,
    rel_rms: float | None = None,
    dtype: torch.dtype | None = None,
    name: str = "output",
) -> None:
    """Raise AssertionError unless `actual` is a correct rounding of `expected`.

    actual, expected: [..., columns], same shape and device; both float, or both integer or bool
    (compared exactly). Each row and all rows together are judged by relative rms error, and each
    element by its error over its row's rms. Pass `expected` in float32 or float64 if possible: then
    rounding explains at most half a step of the output's dtype, and with a few hundred elements
    truncation or a factor of 1.0005 is detected. In the output's own dtype the factor is hidden.

    terms: number of products that each element sums; None: no sum, only the output's rounding.
    accumulate: dtype of that sum: f32, bf16 or fp16; requires terms.
    noise: further legitimate relative rms error, e.g. .002 for intermediate roundings.
    rel_rms: the largest relative rms error of a row, and of all rows, instead of a derived one;
    excludes terms and noise.
    dtype: the required dtype of `actual`; None: any, since `expected` is often finer.

    Elements are judged by their row's noise: errors in elements far below their row's rms are hard
    to detect once noise is declared. Empty tensors pass. Expected rows of zeros must match exactly.
    Raises TypeError if a tensor is not dense, if a float meets an integer, or for declarations of
    the wrong type; ValueError for declarations out of range or exclusive, for different shapes or
    devices, if `expected` has NaN, Inf or values whose squares overflow float64, and for a
    tolerance under which zeros would pass.
    """
    declaration = declared(terms, accumulate, noise, rel_rms, dtype)
    for label, value in (("actual", actual), ("expected", expected)):
        _check_tensor(label, value)
    if dtype is not None and actual.dtype != dtype:
        raise AssertionError(f"{name}: its dtype is {actual.dtype}; dtype= requires {dtype}")
    _check(actual, expected)
    if actual.numel() == 0:
        return
    if actual.dtype.is_floating_point:
        _close(actual, expected, declaration, name)
    else:
        _equal(actual, expected, name)


def _close(actual: Tensor, expected: Tensor, declaration: Declared, name: str) -> None:
    pair = as_pair(actual, expected)
    answer, total_factor = reference_with_tolerance(pair, declaration)
    _check_power(answer, name)
    outliers = wrong_elements(pair, declaration.noise)
    skew = None if bool(outliers.any()) else one_sided(pair, declaration.noise)
    judgement = judge(pair.actual, answer, (ROW_FACTOR, total_factor))
    failed = judgement.verdict is Verdict.FAILED
    if failed or skew or bool(outliers.any()):
        text = _message(pair, answer, outliers, skew, judgement.messages if failed else ())
        raise AssertionError(
            f"{name}: {text}\n  {_tolerance_text(answer, declaration.components(actual.dtype))}"
        )


def _check_tensor(label: str, value: object) -> None:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{label} is {type(value).__name__}; pass a torch.Tensor")
    # Masked, jagged, distributed or fake tensors: their values cannot be read directly
    if type(value).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        kind = type(value).__name__
        raise TypeError(f"{label} is a {kind}, not a plain tensor; pass a dense torch.Tensor")
    if value.is_nested:
        raise TypeError(f"{label} is a nested tensor; pass a dense one, or its parts")
    if value.layout != torch.strided:
        raise TypeError(f"{label} is a {value.layout} tensor; pass a dense one")


def _check(actual: Tensor, expected: Tensor) -> None:
    for label, value in (("actual", actual), ("expected", expected)):
        if value.dtype.is_complex or value.is_quantized:
            raise TypeError(f"{label} has dtype {value.dtype}; compare its real parts or values")
        if value.dtype.is_floating_point and value.dtype not in GRIDS:
            known = ", ".join(str(dtype) for dtype in GRIDS)
            raise TypeError(f"{label} has dtype {value.dtype}; floats must be one of {known}")
    if actual.dtype.is_floating_point != expected.dtype.is_floating_point:
        kinds = f"actual {actual.dtype}, expected {expected.dtype}"
        raise TypeError(f"{kinds}: a float and an integer cannot be compared; convert one of them")
    if actual.shape != expected.shape:
        shapes = f"actual {list(actual.shape)}, expected {list(expected.shape)}"
        raise ValueError(f"{shapes}: shapes must be the same; nothing is broadcast")
    if actual.device != expected.device:
        devices = f"actual on {actual.device}, expected on {expected.device}"
        raise ValueError(f"{devices}: move them to one device")
    _check_values(expected)


def _check_values(expected: Tensor) -> None:
    if expected.is_meta:
        raise ValueError("both are on meta, which holds no values; create them on a device")
    if not expected.dtype.is_floating_point:
        return
    values = expected.to(torch.float64 if expected.dtype == torch.float64 else torch.float32)
    if not bool(values.isfinite().all()):
        raise ValueError("expected holds NaN or Inf: nothing can be close to that; fix it first")
    if values.dtype == torch.float64 and values.numel():
        rows = values.abs().amax(dim=-1)
        out_of_range = (rows > 0) & ((rows < 1 / _MAX_MAGNITUDE) | (rows > _MAX_MAGNITUDE))
        if bool(out_of_range.any()):
            value = float(rows[out_of_range].flatten()[0])
            raise ValueError(
                f"a row of expected is at most {value:.3g}: squares of it leave float64 beyond "
                f"{_MAX_MAGNITUDE:.0e} and its inverse; scale both sides by a power of two"
            )


def _equal(actual: Tensor, expected: Tensor, name: str) -> None:
    differ = _as_int64(actual) != _as_int64(expected)
    if not bool(differ.any()):
        return
    places = differ.nonzero()
    first = tuple(places[0].tolist())
    place = list(first)
    raise AssertionError(
        f"{name}: {len(places)} of {actual.numel()} elements differ, first at {place}: "
        f"{actual[first].item()}, expected {expected[first].item()}"
    )


def _as_int64(x: Tensor) -> Tensor:
    """Return integers as int64, since unsigned dtypes do not compare with others."""
    if x.dtype != torch.uint64:
        return x.to(torch.int64)
    if bool((x.view(torch.int64) < 0).any()):
        raise TypeError("integers >= 2**63 cannot be compared; compare their high and low halves")
    return x.view(torch.int64)


def _check_power(answer: Answer, name: str) -> None:
    size = answer.out.norm(dim=1)
    blind = ((row_tolerance(answer, ROW_FACTOR) >= size) & (size > 0)).nonzero().flatten()
    if len(blind):
        rows = numbers_text(blind.tolist())
        raise ValueError(
            f"{name}: the tolerance exceeds the expected values in {len(blind)} of {len(size)} "
            f"rows ({rows}): zeros would pass; declare fewer terms, less noise or a finer dtype"
        )


def _message(
    pair: Pair, answer: Answer, elements: Tensor, skew: Skew | None, judged: tuple[str, ...]
) -> str:
    if skew:
        elements = elements | skew.elements
    mismatch = find_mismatch(pair.actual, answer, pair.eps, ROW_FACTOR).with_elements(elements)
    stats = facts(pair.actual, answer.out, mismatch)
    lines = [amount_text(stats), *fact_lines(stats)]
    if skew:
        lines.append(
            f"  {int(skew.elements.sum())} elements are more than half a step off, "
            f"{skew.fraction:.0%} of them {skew.side}: truncation instead of rounding, or a "
            "factor close to 1"
        )
    lines += [f"  pattern: {p.text}" for p in (*of_rows(mismatch.rows), *of_columns(mismatch))]
    lines += [f"  {text}" for text in judged[:1]]
    return "\n".join(lines)


def _tolerance_text(answer: Answer, components: str) -> str:
    """Describe what the tolerance is composed of. components: from `Declared.components`."""
    norms = answer.out.norm(dim=1)
    if not bool((norms > 0).any()):
        return "tolerance: exact zeros, as all expected values are zero"
    fraction = float((row_tolerance(answer, ROW_FACTOR) / norms)[norms > 0].amax())
    return f"tolerance: a relative rms error of {fraction:.3g} in a row; {components}"
