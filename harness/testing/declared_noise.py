"""Check what a caller of `assert_close` declares, regardless of the tensors."""

from __future__ import annotations

import math
import reprlib
from dataclasses import dataclass
from numbers import Integral, Real

import torch

__tracebackhide__ = True  # pytest shows the caller's line, not these

# Relative rounding error of one addition: with p bits a step is 2**-p to 2**(1-p) of the value, and
# the rms rounding error 1/sqrt(12) of a step; doubled, since both sides may be sums.
LOSS = {"f32": 2.0**-24, "bf16": 2.0**-8, "fp16": 2.0**-11}
_TOO_MANY = 2**63  # products; still finite as a float


@dataclass(frozen=True, kw_only=True)
class Declared:
    """Hold what was declared. noise: legitimate relative rms error besides both sides' rounding.

    rel_rms: the largest relative rms error of a row, which replaces the derived one; or None.
    sums: the declared sums, in words.
    """

    noise: float
    rel_rms: float | None
    sums: str

    def components(self, dtype: torch.dtype) -> str:
        """Describe what the tolerance of an output of this dtype is composed of."""
        if self.rel_rms is not None:
            return "set by rel_rms"
        return f"rounding to {str(dtype).removeprefix('torch.')}, {self.sums}"


def declared(
    terms: int | None, accumulate: str, noise: float, rel_rms: float | None, dtype: object
) -> Declared:
    """Return the checked declaration; for the arguments see `assert_close`.

    Raises TypeError for a value of the wrong type, ValueError for one out of range and for two that
    exclude each other.
    """
    _check_terms(terms)
    _check_accumulate(accumulate, terms)
    _check_share("noise", noise)
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"{_typed('dtype', dtype)}; actual must have it: pass a torch.dtype")
    if rel_rms is not None:
        _check_share("rel_rms", rel_rms)
        _check_alone(rel_rms, terms, noise)
        return Declared(noise=float(rel_rms), rel_rms=float(rel_rms), sums="")
    sums = f"sums of {terms} products in {accumulate}" if terms else "no sum (set terms=...)"
    accumulation = LOSS[accumulate] * math.sqrt(terms or 0)
    return Declared(noise=math.hypot(accumulation, float(noise)), rel_rms=None, sums=sums)


def _typed(name: str, value: object) -> str:
    return f"{name} is {reprlib.repr(value)}, of type {type(value).__name__}"


def _check_terms(terms: object) -> None:
    if terms is None:
        return
    rule = "it counts the products of a sum"
    if isinstance(terms, bool) or not isinstance(terms, Integral):
        raise TypeError(f"{_typed('terms', terms)}; {rule}: pass an int, or None for no sum")
    if not 1 <= int(terms) < _TOO_MANY:
        raise ValueError(
            f"terms is {reprlib.repr(terms)}; {rule}, so pass at least 1, or None for no sum, "
            "and below 2**63"
        )


def _check_accumulate(accumulate: object, terms: int | None) -> None:
    rule = f"it must be one of {', '.join(LOSS)}"
    if not isinstance(accumulate, str):
        raise TypeError(f"{_typed('accumulate', accumulate)}; {rule}")
    if accumulate not in LOSS:
        raise ValueError(f"accumulate is {accumulate!r}; {rule}")
    if accumulate != "f32" and terms is None:
        raise ValueError(
            f"accumulate is {accumulate!r} where terms is None; it says how a sum is kept, so say "
            "of how many products with terms=..., too"
        )


def _check_share(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{_typed(name, value)}; it is a relative error: pass a float")
    if not 0 <= float(value) < 1:
        raise ValueError(
            f"{name} is {value}; it is relative, so pass at least 0 and below 1: from 1 on "
            "zeros would pass"
        )


def _check_alone(rel_rms: float, terms: int | None, noise: float) -> None:
    if terms is not None or noise:
        raise ValueError(
            f"rel_rms is {rel_rms} beside terms={terms}, noise={noise}; it is taken in place of "
            "what they derive: pass one or the other"
        )
