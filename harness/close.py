"""`assert_close`: the judgement of an output for anybody's test, without a run of the harness.

The bound comes from the expected tensor's own scale, the rounding of the output's dtype and the
length of the sums that the caller declares; there is no absolute tolerance. So an all-zero output
never passes, and scaling both sides scales the bound along.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.compare import ALL_MARGIN, ROW_MARGIN, bound, judge
from harness.facts import facts
from harness.patterns import find_wrong, of_columns, of_rows
from harness.result import Verdict
from harness.wording import amount_text, fact_lines, numbers_text
from moe.reference.answer import Answer

if TYPE_CHECKING:
    from torch import Tensor

# dtype -> (bits of the significand, exponent of the smallest step)
_GRIDS = {
    torch.bfloat16: (8, -133),
    torch.float16: (11, -24),
    torch.float32: (24, -149),
    torch.float64: (53, -1074),
    torch.float8_e4m3fn: (4, -9),
    torch.float8_e5m2: (3, -16),
}
# What one addition of a sum loses, relative to the sum: with p bits a step is 2**-p to 2**(1-p) of
# the value, and its rounding error 1/sqrt(12) of a step; twice that, for the other side's sum.
_LOSS = {"f32": 2.0**-24, "bf16": 2.0**-8, "fp16": 2.0**-11}
_FAR = 1e150  # the largest value whose square float64 holds, with room for a sum
SIGMAS = 6.0  # how many standard deviations chance may take a row
ELEMENT_SIGMAS = 16.0  # one element: its own sum may be of much larger terms than its row's


@dataclass(frozen=True, kw_only=True)
class _Sides:
    """Both as [rows, columns] float32, or float64 where float32 could not tell them apart."""

    actual: Tensor
    expected: Tensor
    step: Tensor  # distance between neighbours of the coarser dtype, at each expected value
    eps: float  # the same at 1


def assert_close(
    actual: Tensor,
    expected: Tensor,
    *,
    terms: int | None = None,
    accumulate: str = "f32",
    noise: float = 0.0,
    rel_rms: float | None = None,
    name: str = "output",
) -> None:
    """Raise AssertionError unless `actual` is a right rounding of `expected`.

    actual, expected: [..., columns], same shape and device, both float, or both integer or bool
    (those must be equal). Each row is judged by its relative rms error, all rows together, and
    each element by its distance over its row's rms. Hand in the expected one in float32 or
    float64 where you can: a rounded one makes room for its own rounding.

    terms: how many products each element is the sum of; None: no sum, only the output's rounding.
    accumulate: in what that sum is kept: f32, bf16 or fp16.
    noise: further relative rms error that is legitimate, e.g. .002 of intermediate roundings.
    rel_rms: take this as the largest relative rms error of a row instead of deriving it.

    An element is judged by its row's noise: one that is far below its row's rms is hardly seen
    once noise is declared. No elements: passes. An expected row of zeros must be matched exactly.
    Raises TypeError for what is no dense tensor and for kinds that do not fit together; ValueError
    for shapes and devices that differ, for an expected one with NaN, Inf or values whose squares
    float64 does not hold, and for a bound under which zeros would pass.
    """
    _check(actual, expected)
    if actual.numel() == 0:
        return
    if not actual.dtype.is_floating_point:
        _equal(actual, expected, name)
        return
    declared = _declared(terms, accumulate, noise, rel_rms)
    sides = _sides(actual, expected)
    answer = _answer(sides, declared, rel_rms)
    _not_blind(answer, name)
    loose = declared if rel_rms is None else rel_rms
    wrong = _wrong_elements(sides, loose)
    found = judge(sides.actual, answer, (ROW_MARGIN, ALL_MARGIN))
    failed = found.verdict is Verdict.FAILED
    if failed or bool(wrong.any()):
        said = _message(sides, answer, wrong, found.messages if failed else ())
        raise AssertionError(
            f"{name}: {said}\n  {_allowed(answer, actual.dtype, terms, accumulate)}"
        )


def _check(actual: Tensor, expected: Tensor) -> None:
    for what, value in (("actual", actual), ("expected", expected)):
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{what} is {type(value).__name__}; hand in a torch.Tensor")
        if value.layout != torch.strided:
            raise TypeError(f"{what} is a {value.layout} tensor; hand in a dense one")
        if value.dtype.is_complex or value.is_quantized:
            raise TypeError(f"{what} has dtype {value.dtype}; compare its real parts or values")
        if value.dtype.is_floating_point and value.dtype not in _GRIDS:
            known = ", ".join(str(dtype) for dtype in _GRIDS)
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


def _declared(terms: int | None, accumulate: str, noise: float, rel_rms: float | None) -> float:
    """The relative rms noise that the caller allows beside the output's own rounding."""
    if terms is not None and terms < 1:
        raise ValueError(f"terms is {terms}; it counts the products of a sum, so at least 1")
    if accumulate not in _LOSS:
        raise ValueError(f"accumulate is {accumulate!r}; it must be one of {', '.join(_LOSS)}")
    if not 0 <= noise < 1:
        raise ValueError(f"noise is {noise}; it is relative, so at least 0 and below 1")
    if rel_rms is not None and not 0 <= rel_rms < 1:
        raise ValueError(f"rel_rms is {rel_rms}; from 1 on zeros would pass, so hand in less")
    return math.hypot(_LOSS[accumulate] * math.sqrt(terms or 0), noise)


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


def _sides(actual: Tensor, expected: Tensor) -> _Sides:
    """As matrices; the last dimension is the columns."""
    shape = (-1, actual.shape[-1]) if actual.dim() else (1, 1)
    got, want = actual.detach().reshape(shape), expected.detach().reshape(shape)
    dtype = torch.float64 if _needs_double(actual, want) else torch.float32
    got, want = got.to(dtype), want.to(dtype)
    coarser = min(actual.dtype, expected.dtype, key=lambda d: _GRIDS[d][0])
    bits, smallest = _GRIDS[coarser]
    return _Sides(
        actual=got, expected=want, step=_step(want, bits, smallest), eps=2.0 ** (1 - bits)
    )


def _needs_double(actual: Tensor, expected: Tensor) -> bool:
    """Where float32 could not tell the sides apart, or squares would leave its range."""
    wide = {torch.float32, torch.float64}
    if actual.dtype in wide or expected.dtype == torch.float64:
        return True
    largest = expected.to(torch.float32).abs().amax(dim=1)
    largest = largest[largest > 0]
    return bool((largest < 2.0**-40).any() or (largest > 2.0**40).any())


def _step(x: Tensor, bits: int, smallest: int) -> Tensor:
    _, exponent = torch.frexp(x)
    exponent = torch.where(x == 0, smallest, exponent - bits).clamp(min=smallest)
    return torch.ldexp(torch.ones_like(x), exponent)


def _answer(sides: _Sides, declared: float, rel_rms: float | None) -> Answer:
    """The expected rows with the variance of their distance; zero rows have none.

    Both sides may be rounded: twice a step squared over twelve for each element.
    """
    expected = sides.expected
    size = expected.square().sum(dim=1)
    columns = expected.shape[1]
    wider = max(1.0, (1 + SIGMAS / math.sqrt(2 * columns)) / ALL_MARGIN)  # short rows scatter
    rounding = sides.step.square().sum(dim=1) / 6
    variance = (rounding + declared**2 * size) * wider**2
    none = torch.zeros_like(size)
    if rel_rms is not None:
        variance = (rel_rms / ALL_MARGIN) ** 2 * size
    return Answer(
        out=expected,
        variance=torch.where(size > 0, variance, none),
        flips=none,
        amax1=expected.new_zeros(()),
        amax2=expected.new_zeros(()),
    )


def _not_blind(answer: Answer, name: str) -> None:
    size = answer.out.norm(dim=1)
    blind = ((bound(answer, ROW_MARGIN) >= size) & (size > 0)).nonzero().flatten()
    if len(blind):
        rows = numbers_text(blind.tolist())
        raise ValueError(
            f"{name}: the bound is as large as the expected values in {len(blind)} of {len(size)} "
            f"rows ({rows}): zeros would pass; declare fewer terms, less noise or a finer dtype"
        )


def _wrong_elements(sides: _Sides, relative: float) -> Tensor:
    """[rows, columns] bool: off by more than a step on each side and its noise, or not finite."""
    rms = sides.expected.square().mean(dim=1, keepdim=True).sqrt()
    limit = 2 * sides.step * (rms > 0) + ELEMENT_SIGMAS * relative * rms
    return ~((sides.actual - sides.expected).abs() <= limit)


def _message(sides: _Sides, answer: Answer, elements: Tensor, judged: tuple[str, ...]) -> str:
    wrong = find_wrong(sides.actual, answer, sides.eps, ROW_MARGIN).with_elements(elements)
    found = facts(sides.actual, answer.out, wrong)
    said = [amount_text(found), *fact_lines(found)]
    said += [f"  pattern: {p.text}" for p in (*of_rows(wrong.rows), *of_columns(wrong))]
    said += [f"  {text}" for text in judged[:1]]
    return "\n".join(said)


def _allowed(answer: Answer, dtype: torch.dtype, terms: int | None, accumulate: str) -> str:
    """What the bound was made of, for who finds it too tight."""
    size = answer.out.norm(dim=1)
    if not bool((size > 0).any()):
        return "allowed: nothing but zeros, as all expected ones are"
    share = float((bound(answer, ROW_MARGIN) / size)[size > 0].amax())
    sums = f"sums of {terms} products in {accumulate}" if terms else "no sum (say terms=...)"
    made = f"rounding to {str(dtype).removeprefix('torch.')}, {sums}"
    return f"allowed: a relative rms error of {share:.3g} in a row; {made}"
