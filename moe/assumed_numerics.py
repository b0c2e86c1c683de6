"""List the customary roundings that are tried where a row does not state its numerics. Torch-free.

Before the second product a rounding moves every later value, and before a second quantization it
moves codes. So the customary combinations there are alternatives, each with a tight tolerance of
its own, and one of them must explain all outputs of a case. A rounding after the second product
adds a small error to the value itself and is counted as noise.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from moe.formats import FORMATS
from moe.numerics import EITHER, FLOAT32_LOSS, ROUNDED, Numerics

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from moe.spec import Scheme

# (gemm1, activated_gate, activation), the most frequent first: fused kernels round both products,
# frameworks every step, others only what they store.
_ROUNDINGS = (
    ("model", "f32", "model"),
    ("model", "model", "model"),
    ("f32", "f32", "model"),
    ("f32", "f32", "f32"),
    ("model", "f32", "f32"),
    ("model", "model", "f32"),
    ("f32", "model", "model"),
    ("f32", "model", "f32"),
)
# (activation, weight_dtype, weighted) where the router weight multiplies the intermediate: a value
# in float32 can be rounded after it, a rounded one is multiplied in either dtype.
_ON_INTERMEDIATE = (
    ("f32", "f32", "model"),
    ("model", "f32", "model"),
    ("model", "model", "model"),
    ("model", "f32", "f32"),
    ("f32", "f32", "f32"),
)
# Roundings that are counted as noise: a member that omits one of them is nearer to the reference.
_NOISE: dict[str, Any] = {
    "expert": "model",
    "combine": "model",
    "reduction": "model",
    "dequantized": "f32",  # the other choice has to be stated: it moves all values
    "combine_order": "any",
    "scale": "times_reciprocal",
    "amax_floor": 0.0,
    "amax_epsilon": 0.0,
    "activation_error": 0.0,
}
# The tensor cores of sm90 sum 8-bit floats 32 at a time, truncated 13 bits below the largest; a
# kernel may or may not promote the sums.
_SHORT: dict[str, Any] = {"accumulation": 2.0**-15.5, "aligned": (32, 13)}
# A dense MLP in a layer of another package, whose roundings no row states.
SHARED_ASSUMED = Numerics.stated(
    gemm1=EITHER, activated_gate=EITHER, activation=EITHER, accumulation=FLOAT32_LOSS
)


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Hold the numerics with which a member may be right.

    stated: by its row. alternatives: to try in this order, see `alternatives`. ball: covers all of
    them, see `ball`. balls: cover them together, where one does not; the first is `ball`.
    """

    stated: Numerics
    alternatives: tuple[Numerics, ...]
    balls: tuple[Numerics, ...]

    @property
    def ball(self) -> Numerics:
        """Return the numerics whose noise covers the alternatives."""
        return self.balls[0]

    @property
    def several(self) -> bool:
        """Tell whether there is more than one alternative."""
        return len(self.alternatives) > 1


@functools.cache
def candidates(stated: Numerics, scheme: Scheme, dtype: str, device: str) -> Candidates:
    """Return the candidates for a row that states these numerics."""
    return Candidates(
        stated=stated,
        alternatives=alternatives(stated, scheme, dtype, device),
        balls=_balls(stated, scheme, dtype, device),
    )


def alternatives(
    declared: Numerics, scheme: Scheme, dtype: str, device: str
) -> tuple[Numerics, ...]:
    """Return the numerics to try, the most frequent first; each states every place.

    There is one if `declared` states all places before the second product. dtype: the layer's.
    device: a torch device type.
    """
    known = replace(declared, **_accumulation(declared, scheme, device)).filled(Numerics(**_NOISE))
    tried = (_settled(known.filled(customary)) for customary in _customary(declared.weight_on))
    plain = (_in_float32(numerics) if dtype == "f32" else numerics for numerics in tried)
    return tuple(dict.fromkeys(_with_known_weights(plain)))


def ball(declared: Numerics, scheme: Scheme, dtype: str, device: str) -> Numerics:
    """Return numerics whose noise covers all alternatives, where no single one is known."""
    first = alternatives(declared, scheme, dtype, device)[0]
    places = ("gemm1", "activated_gate", "activation")
    unknown: dict[str, Any] = {name: EITHER for name in places if getattr(declared, name) is None}
    return replace(first, **unknown)


def _balls(stated: Numerics, scheme: Scheme, dtype: str, device: str) -> tuple[Numerics, ...]:
    """Return the ball, and one with the weight on the intermediate if that moves all codes.

    A scale of each row follows the weight, so codes stay; a scale of the whole tensor does not.
    """
    covering = ball(stated, scheme, dtype, device)
    shared = FORMATS[scheme.activations].has_one_scale or FORMATS[scheme.activations].global_scale
    if stated.weight_on is not None or not shared:
        return (covering,)
    inside = replace(stated, weight_on="intermediate")
    return covering, ball(inside, scheme, dtype, device)


def _customary(weight_on: str | None) -> Iterator[Numerics]:
    """Yield each customary combination of the places before the second product.

    weight_on: where the router weight is stated to come in; None: anywhere.
    """
    if weight_on != "intermediate":
        yield from _with_weight_elsewhere()
    if weight_on in (None, "intermediate"):
        yield from _with_weight_on_intermediate()


def _with_weight_elsewhere() -> Iterator[Numerics]:
    for gemm1, activated_gate, activation in _ROUNDINGS:
        yield Numerics(
            gemm1=gemm1,
            activated_gate=activated_gate,
            activation=activation,
            weight_on="output",
            weight_dtype=EITHER,
        )


def _with_weight_on_intermediate() -> Iterator[Numerics]:
    firsts = dict.fromkeys(places[:2] for places in _ROUNDINGS)
    for (gemm1, activated_gate), (activation, weight_dtype, weighted) in itertools.product(
        firsts, _ON_INTERMEDIATE
    ):
        yield Numerics(
            gemm1=gemm1,
            activated_gate=activated_gate,
            activation=activation,
            weight_on="intermediate",
            weight_dtype=weight_dtype,
            weighted=weighted,
        )


def _settled(numerics: Numerics) -> Numerics:
    """Return the numerics with `weighted` stated."""
    return numerics.filled(Numerics(weighted="model"))


def _in_float32(numerics: Numerics) -> Numerics:
    """Return the numerics of a float32 layer, where rounding to its dtype changes nothing."""
    plain: dict[str, Any] = dict.fromkeys(ROUNDED, "f32")
    return replace(numerics, **plain, weight_dtype="f32")


def _with_known_weights(tried: Iterable[Numerics]) -> Iterator[Numerics]:
    """Yield both dtypes of the router weight where it comes before the second product."""
    for numerics in tried:
        if numerics.weight_on == "output" or numerics.weight_dtype != EITHER:
            yield numerics
        else:
            yield from (replace(numerics, weight_dtype=dtype) for dtype in ("f32", "model"))


def _accumulation(declared: Numerics, scheme: Scheme, device: str) -> dict[str, Any]:
    """Return how sums are assumed to accumulate; kernels on a CPU sum in float32."""
    if declared.accumulation is not None:
        return {}
    is_short = device != "cpu" and FORMATS[scheme.activations].grid == "e4m3"
    short = {**_SHORT, "aligned": declared.aligned or _SHORT["aligned"]}
    return short if is_short else {"accumulation": FLOAT32_LOSS}
