"""Declare where a member rounds, so that the reference rounds in the same places. Torch-free.

A member may state every place, some, or none. What it does not state is assumed: see
`moe.assumed_numerics`.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

BF16_LOSS = 2.0**-8  # relative step of bf16, the shortest accumulator that is supported
FLOAT32_LOSS = 2.0**-22  # largest relative error of a float32 addition, in any order of terms
EITHER = "either"  # f32 or the layer's dtype: counted as noise, for values that are assumed
# Places whose value is kept in float32 (`f32`) or rounded to the layer's dtype (`model`).
ROUNDED = ("gemm1", "activated_gate", "activation", "expert", "weighted", "combine", "reduction")
_EITHER = ("gemm1", "activated_gate", "activation", "weight_dtype")  # may be EITHER
_CHOICES = {
    "weight_on": ("output", "intermediate", "input"),
    "weight_dtype": ("f32", "model"),
    "dequantized": ("f32", "model"),
    "combine_order": ("any", "slots"),
    "scale": ("times_reciprocal", "divided"),
    "reduction": ("f32", "model", "wire"),
}
_MOST_ERROR = 2.0**-6  # of an approximate activation function; more is another function
# What a place is where every place is stated and this one is not named.
_FLOAT32: dict[str, Any] = {
    **dict.fromkeys(ROUNDED, "f32"),
    "weight_on": "output",
    "weight_dtype": "f32",
    "dequantized": "f32",
    "combine_order": "any",
    "reduction": "model",
    "scale": "times_reciprocal",
    "amax_floor": 0.0,
    "amax_epsilon": 0.0,
    "activation_error": 0.0,
    "accumulation": 2.0**-23,
}


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """State where a member rounds and how it scales; None: not stated, so assumed.

    Raises ValueError for values that the reference does not support.
    """

    # In the order of computation. `f32`, or `model`: rounded to the layer's dtype.
    dequantized: str | None = None  # scales of quantized weights, and their products with the codes
    gemm1: str | None = None  # the first product, before the activation function
    activated_gate: str | None = None  # f(gate), before the product with up
    activation: str | None = None  # f(gate) * up, before any second quantization
    expert: str | None = None  # each expert's output, before its router weight
    weighted: str | None = None  # the product with the router weight
    combine: str | None = None  # the weighted sum over the k experts, while it accumulates
    # Each rank's partial sum, and the sum over ranks; `wire`: what is sent is rounded to the dtype
    # of the layer, and its sum in float32 is rounded once.
    reduction: str | None = None
    # The router weight multiplies an expert's output, its intermediate or its input, ...
    weight_on: str | None = None
    weight_dtype: str | None = None  # ... in `f32`, or rounded to the dtype of the layer (`model`)
    combine_order: str | None = None  # `slots`: in the order of the router's slots; or `any`
    # A dynamic scale: `times_reciprocal` is amax * (1 / max), `divided` is amax / max, where max is
    # the largest code. amax is first clamped from below to the floor, then the epsilon is added.
    scale: str | None = None
    amax_floor: float | None = None
    amax_epsilon: float | None = None
    activation_error: float | None = None  # largest relative error of an approximate f, as tanh's
    # Error of each addition in a product's sum, relative to the root of the sum of squares of its
    # terms; over K terms it grows by sqrt(K). That of float32 is about 2**-24.
    accumulation: float | None = None
    # Terms between promotions of a short accumulator to a float32 one, which end the growth of its
    # error; None: never.
    promoted: int | None = None
    # (terms, bits) of a tensor core: `terms` products at a time, and the sum so far, are aligned to
    # the largest of them and truncated `bits` bits below it; None: unknown.
    aligned: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name, choices in (dict.fromkeys(ROUNDED, ("f32", "model")) | _CHOICES).items():
            _check_choice(name, getattr(self, name), choices)
        _check_share("accumulation", self.accumulation, BF16_LOSS, "2**-8, which is bf16's step")
        _check_share(
            "activation_error",
            self.activation_error,
            _MOST_ERROR,
            "2**-6; more is another function",
        )
        for name in ("amax_floor", "amax_epsilon"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ValueError(
                    f"{name} is {value}; it is in units of the values, from 0; if the kernel has "
                    "none, state 0.0"
                )
        if self.promoted is not None and self.promoted < 1:
            raise ValueError(f"promoted is {self.promoted}; it counts terms: at least 1, or None")
        if self.aligned is not None and min(self.aligned) < 1:
            raise ValueError(f"aligned is {self.aligned}; it is (terms, bits), each at least 1")

    @classmethod
    def stated(cls, **places: Any) -> Numerics:
        """Return numerics that state every place: those not named are as in plain float32.

        Only the reduction over ranks is in the layer's dtype, which the collectives here send.
        """
        return cls(**{**_FLOAT32, **places})

    @property
    def unstated(self) -> tuple[str, ...]:
        """Return the places that are assumed, in the order of the fields."""
        return tuple(name for name in _NAMES if name in _FLOAT32 and getattr(self, name) is None)

    @property
    def places(self) -> dict[str, Any]:
        """Return what is stated: name -> value."""
        return {name: value for name in _NAMES if (value := getattr(self, name)) is not None}

    def replaced_by(self, other: Numerics) -> Numerics:
        """Return these numerics with the other's values wherever it states some."""
        return replace(self, **other.places)

    def filled(self, other: Numerics) -> Numerics:
        """Return these numerics with the other's values where a place is not stated."""
        unstated = self.unstated
        missing = {name: value for name, value in other.places.items() if name in unstated}
        return replace(self, **missing) if missing else self


_NAMES = tuple(field.name for field in fields(Numerics))


def declaration(numerics: Numerics) -> str:
    """Return the Python expression that states these places, to paste into a row."""
    places = (f"{name}={_literal(value)}" for name, value in numerics.places.items())
    return f"Numerics({', '.join(places)})"


def _literal(value: object) -> str:
    """Return a string in double quotes, and anything else as its repr."""
    return f'"{value}"' if isinstance(value, str) else repr(value)


def _check_choice(name: str, value: str | None, choices: tuple[str, ...]) -> None:
    assumed = (EITHER,) if name in _EITHER else ()
    if value is not None and value not in (*choices, *assumed):
        alternatives = " or ".join((", ".join(choices[:-1]), choices[-1]))
        raise ValueError(f"{name} is {value!r}; it must be {alternatives}, or left out if unknown")


def _check_share(name: str, value: float | None, limit: float, rule: str) -> None:
    if value is not None and not 0 <= value <= limit:
        raise ValueError(
            f"{name} is {value}; it is a relative error, from 0 to {rule}; leave it out if unknown"
        )
