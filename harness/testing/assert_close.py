"""`assert_close`: the judgement of an output for anybody's test, without a run of the harness.

The bound comes from the expected tensor's own scale, the rounding of the output's dtype and the
length of the sums that the caller declares; there is no absolute tolerance. So an all-zero output
never passes, and scaling both sides scales the bound along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks.output import ROW_MARGIN, bound, judge
from harness.diagnosis.error_stats import facts
from harness.diagnosis.patterns import find_wrong, of_columns, of_rows
from harness.formatting import amount_text, fact_lines, numbers_text
from harness.record.result import Verdict
from harness.testing.declared_noise import declared
from harness.testing.tolerance import GRIDS, Lean, Sides, allowed, lean, sides, wrong_elements

if TYPE_CHECKING:
    from torch import Tensor

    from harness.testing.declared_noise import Declared
    from moe.reference.result import Answer

__tracebackhide__ = True  # pytest shows the caller's line, not these

_FAR = 1e150  # the largest value whose square float64 holds, with room for a sum


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
    """Raise AssertionError unless `actual` is a right rounding of `expected`.

    actual, expected: [..., columns], same shape and device, both float, or both integer or bool
    (those must be equal). Each row is judged by its relative rms error, all rows together, and
    each element by its distance over its row's rms. Hand in the expected one in float32 or
    float64 where you can: then half a step of the output's dtype is all that rounding may do, and
    truncation or a factor of 1.0005 is seen, given some hundred elements; one in the output's
    own dtype hides the factor.

    terms: how many products each element is the sum of; None: no sum, only the output's rounding.
    accumulate: in what that sum is kept: f32, bf16 or fp16; not without terms.
    noise: further relative rms error that is legitimate, e.g. .002 of intermediate roundings.
    rel_rms: take this as the largest relative rms error of a row, and of all rows, instead of
    deriving it; not together with terms or noise.
    dtype: what `actual` must have. None: any, as the expected one is often finer.

    An element is judged by its row's noise: one that is far below its row's rms is hardly seen
    once noise is declared. No elements: passes. An expected row of zeros must be matched exactly.
    Raises TypeError for what is no dense tensor, for kinds that do not fit together and for
    declarations of another type; ValueError for declarations out of range or that exclude each
    other, for shapes and devices that differ, for an expected one with NaN, Inf or values whose
    squares float64 does not hold, and for a bound under which zeros would pass.
    """
    said = declared(terms, accumulate, noise, rel_rms, dtype)
    for what, value in (("actual", actual), ("expected", expected)):
        _check_tensor(what, value)
    if dtype is not None and actual.dtype != dtype:
        given = f"its dtype is {actual.dtype}"
        raise AssertionError(f"{name}: {given}; it must be {dtype}, as dtype= says")
    _check(actual, expected)
    if actual.numel() == 0:
        return
    if actual.dtype.is_floating_point:
        _close(actual, expected, said, name)
    else:
        _equal(actual, expected, name)


def _close(actual: Tensor, expected: Tensor, said: Declared, name: str) -> None:
    both = sides(actual, expected)
    answer, margin = allowed(both, said)
    _not_blind(answer, name)
    wrong = wrong_elements(both, said.noise)
    leaning = None if bool(wrong.any()) else lean(both, said.noise)
    found = judge(both.actual, answer, (ROW_MARGIN, margin))
    failed = found.verdict is Verdict.FAILED
    if failed or leaning or bool(wrong.any()):
        text = _message(both, answer, wrong, leaning, found.messages if failed else ())
        raise AssertionError(f"{name}: {text}\n  {_allowed(answer, said.made(actual.dtype))}")


def _check_tensor(what: str, value: object) -> None:
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{what} is {type(value).__name__}; hand in a torch.Tensor")
    # Masked, jagged, distributed or fake ones: their values are not theirs to be read
    if type(value).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        kind = type(value).__name__
        raise TypeError(f"{what} is a {kind}, not a plain tensor; hand in a dense torch.Tensor")
    if value.is_nested:
        raise TypeError(f"{what} is a nested tensor; hand in a dense one, or its parts")
    if value.layout != torch.strided:
        raise TypeError(f"{what} is a {value.layout} tensor; hand in a dense one")


def _check(actual: Tensor, expected: Tensor) -> None:
    for what, value in (("actual", actual), ("expected", expected)):
        if value.dtype.is_complex or value.is_quantized:
            raise TypeError(f"{what} has dtype {value.dtype}; compare its real parts or values")
        if value.dtype.is_floating_point and value.dtype not in GRIDS:
            known = ", ".join(str(dtype) for dtype in GRIDS)
            raise TypeError(f"{what} has dtype {value.dtype}; floats must be one of {known}")
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
        raise ValueError("both are on meta, which holds no values; make them on a device")
    if not expected.dtype.is_floating_point:
        return
    wide = expected.to(torch.float64 if expected.dtype == torch.float64 else torch.float32)
    if not bool(wide.isfinite().all()):
        raise ValueError("expected holds NaN or Inf: nothing can be close to that; mend it first")
    if wide.dtype == torch.float64 and wide.numel():
        rows = wide.abs().amax(dim=-1)
        far = (rows > 0) & ((rows < 1 / _FAR) | (rows > _FAR))
        if bool(far.any()):
            value = float(rows[far].flatten()[0])
            raise ValueError(
                f"a row of expected is at most {value:.3g}: squares of it leave float64 beyond "
                f"{_FAR:.0e} and its inverse; scale both sides by a power of two"
            )


def _equal(actual: Tensor, expected: Tensor, name: str) -> None:
    differ = _whole(actual) != _whole(expected)
    if not bool(differ.any()):
        return
    places = differ.nonzero()
    first = tuple(places[0].tolist())
    place = list(first)
    raise AssertionError(
        f"{name}: {len(places)} of {actual.numel()} elements differ, first at {place}: "
        f"{actual[first].item()}, expected {expected[first].item()}"
    )


def _whole(x: Tensor) -> Tensor:
    """Integers as int64, which compares with all: the unsigned ones do not with others."""
    if x.dtype != torch.uint64:
        return x.to(torch.int64)
    if bool((x.view(torch.int64) < 0).any()):
        raise TypeError("integers of 2**63 and more cannot be compared here; compare their halves")
    return x.view(torch.int64)


def _not_blind(answer: Answer, name: str) -> None:
    size = answer.out.norm(dim=1)
    blind = ((bound(answer, ROW_MARGIN) >= size) & (size > 0)).nonzero().flatten()
    if len(blind):
        rows = numbers_text(blind.tolist())
        raise ValueError(
            f"{name}: the bound is as large as the expected values in {len(blind)} of {len(size)} "
            f"rows ({rows}): zeros would pass; declare fewer terms, less noise or a finer dtype"
        )


def _message(
    both: Sides, answer: Answer, elements: Tensor, leaning: Lean | None, judged: tuple[str, ...]
) -> str:
    if leaning:
        elements = elements | leaning.elements
    wrong = find_wrong(both.actual, answer, both.eps, ROW_MARGIN).with_elements(elements)
    found = facts(both.actual, answer.out, wrong)
    said = [amount_text(found), *fact_lines(found)]
    if leaning:
        said.append(
            f"  {int(leaning.elements.sum())} elements are more than half a step off, "
            f"{leaning.share:.0%} of them {leaning.where}: truncated, not rounded, or a factor "
            "beside 1"
        )
    said += [f"  pattern: {p.text}" for p in (*of_rows(wrong.rows), *of_columns(wrong))]
    said += [f"  {text}" for text in judged[:1]]
    return "\n".join(said)


def _allowed(answer: Answer, made: str) -> str:
    """What the bound was made of, for who finds it too tight."""
    size = answer.out.norm(dim=1)
    if not bool((size > 0).any()):
        return "allowed: nothing but zeros, as all expected ones are"
    share = float((bound(answer, ROW_MARGIN) / size)[size > 0].amax())
    return f"allowed: a relative rms error of {share:.3g} in a row; {made}"
