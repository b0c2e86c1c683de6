"""Decide from the fits of all combinations where a member rounds, place by place. No torch.

A value is determined if every combination with another value there is clearly worse. Places that
the outputs do not determine are left open, as a row may leave them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from harness.matrix.case import MoETestConfig
from harness.record.rounding_fit import PLACES
from moe.numerics import EITHER, Numerics

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness.record.rounding_fit import Fit, Measured

CLEARLY = 2.0  # times the residual, from which a combination is worse than another, ...
FEWEST = 16  # ... if as many more output values differ


class Fitting(StrEnum):
    """How well the best combination fits the outputs."""

    REPRODUCED = "reproduced"  # nearly bit by bit
    WITHIN = "within"  # within the tolerance of its noise, which hides some roundings
    NONE = "none"  # no combination explains the outputs


@dataclass(frozen=True, kw_only=True)
class Place:
    """Hold what the outputs say about one place.

    value: of the best combination. others: each other value with the least residual that it
    leaves. is_determined: whether all others are clearly worse.
    """

    name: str
    value: str
    others: tuple[tuple[str, float], ...]
    is_determined: bool


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Hold where a member rounds, and how its row differs from that.

    wrong: places at which the row states another value. to_state: what the row should state.
    first_wrong: the first case that the best combination does not explain, or None. ambiguous_at:
    the case of one expert per token, if it alone contradicts the row, at places that no outputs
    determine; else None.
    """

    fitting: Fitting
    best: Fit
    places: tuple[Place, ...]
    stated: Numerics
    wrong: tuple[str, ...]
    to_state: Numerics
    first_wrong: str | None
    ambiguous_at: str | None = None

    @property
    def is_more_exact(self) -> bool:
        """Tell whether the row is wrong only where it states roundings that do not happen."""
        values = ((getattr(self.stated, n), getattr(self.best.numerics, n)) for n in self.wrong)
        return bool(self.wrong) and all(pair == ("model", "f32") for pair in values)

    @property
    def adds(self) -> bool:
        """Tell whether the outputs determine something that the row does not state."""
        return self.to_state.places != self.stated.places

    @property
    def is_right(self) -> bool:
        """Tell whether the outputs are explained, and the row states nothing else."""
        return self.fitting is not Fitting.NONE and not self.wrong


def decide(measured: Measured, stated: Numerics) -> Decision:
    """Return where the member rounds. stated: by its row, for the scheme of the cases."""
    kept, on = _with_one_weight_on(measured.fits, stated.weight_on)
    best = _least(kept)
    places = tuple(_place(name, best, kept) if name != on.name else on for name in _shown(best))
    fitting, first_wrong = _fitting(measured, best)
    ambiguous_at = _ambiguous_at(measured, kept, places, stated)
    wrong = () if ambiguous_at else _wrong(measured.fits, best, places, stated)
    return Decision(
        fitting=fitting,
        best=best,
        places=places,
        stated=stated,
        wrong=wrong,
        to_state=_to_state(places, stated, wrong, fitting),
        first_wrong=first_wrong,
        ambiguous_at=ambiguous_at,
    )


def is_worse(fit: Fit, than: Fit) -> bool:
    """Tell whether a fit is clearly worse than another."""
    more = fit.total_unequal - than.total_unequal
    return more >= FEWEST and fit.residual >= CLEARLY * than.residual


def _with_one_weight_on(fits: Sequence[Fit], stated: str | None) -> tuple[list[Fit], Place]:
    """Return the fits that multiply the router weight where the outputs do, and that place.

    A weight multiplies an output as it multiplies an unrounded intermediate. Of equal ones, the
    stated or the first one counts: the values of the other places depend on it.
    """
    by_value = {on: _least(_having(fits, "weight_on", on)) for on in _values(fits, "weight_on")}
    nearest = _least(fits)
    preferred = sorted(by_value, key=lambda on: on != stated)
    value = next(on for on in preferred if not is_worse(by_value[on], nearest))
    rivals = tuple((on, fit.residual) for on, fit in by_value.items() if on != value)
    is_determined = all(is_worse(fit, nearest) for on, fit in by_value.items() if on != value)
    place = Place(name="weight_on", value=value, others=rivals, is_determined=is_determined)
    return _having(fits, "weight_on", value), place


def _shown(best: Fit) -> tuple[str, ...]:
    """Return the places that mean something: a sum in float32 has no order."""
    return PLACES if best.numerics.combine == "model" else PLACES[:-1]


def _place(name: str, best: Fit, fits: Sequence[Fit]) -> Place:
    """Return what the fits say about a place. The order is compared for rounded sums only."""
    value = getattr(best.numerics, name)
    if name == "combine_order":
        fits = _having(fits, "combine", "model")
    rivals = {other: _least(_having(fits, name, other)) for other in _values(fits, name)}
    rivals.pop(value, None)
    return Place(
        name=name,
        value=value,
        others=tuple((other, fit.residual) for other, fit in rivals.items()),
        is_determined=all(is_worse(fit, best) for fit in rivals.values()),
    )


def _fitting(measured: Measured, best: Fit) -> tuple[Fitting, str | None]:
    """Return how well the best fit explains the outputs, and the first case that it does not."""
    if best.reproduces:
        return Fitting.REPRODUCED, None
    if max(measured.used) <= 1:
        return Fitting.WITHIN, None
    beyond = (u > 1 for u in measured.used)
    first = next(case for case, is_beyond in zip(measured.cases, beyond, strict=True) if is_beyond)
    return Fitting.NONE, first


def _wrong(
    fits: Sequence[Fit], best: Fit, places: Sequence[Place], stated: Numerics
) -> tuple[str, ...]:
    """Return the places at which the outputs contradict the row; empty if what it states fits."""
    as_stated = [fit for fit in fits if _is_stated(fit, stated)]
    if not is_worse(_least(as_stated), best):
        return ()
    differing = [place for place in places if _differs(place, stated)]
    determined = [place for place in differing if place.is_determined]
    return tuple(place.name for place in determined or differing)


def _ambiguous_at(
    measured: Measured, kept: Sequence[Fit], places: Sequence[Place], stated: Numerics
) -> str | None:
    """Return the case without which nothing contradicts the row, if no place is determined.

    Of one expert there is no sum: at top-k 1 several places are one, and what other codes of a few
    values leave there decides between them by chance. Where outputs are sums, chance does not
    decide: a case that contradicts the row shows that it is wrong.
    """
    best = _least(kept)
    as_stated = _least(fit for fit in measured.fits if _is_stated(fit, stated))
    differing = [place for place in places if _differs(place, stated)]
    if not is_worse(as_stated, best) or any(place.is_determined for place in differing):
        return None
    for number, case in enumerate(measured.cases):
        if MoETestConfig.from_id(case).top_k > 1:
            continue
        without_case = [_without(fit, number) for fit in measured.fits]
        stated_rest = _least(fit for fit in without_case if _is_stated(fit, stated))
        if len(measured.cases) > 1 and not is_worse(stated_rest, _least(without_case)):
            return case
    return None


def _without(fit: Fit, number: int) -> Fit:
    """Return the fit to the other cases."""
    others = [i for i in range(len(fit.squares)) if i != number]
    squares = tuple(fit.squares[i] for i in others)
    return replace(fit, squares=squares, unequal=tuple(fit.unequal[i] for i in others))


def _is_stated(fit: Fit, stated: Numerics) -> bool:
    """Tell whether a fit has the stated values; an order `any` may be each order.

    A sum in float32 has no order.
    """
    pairs = ((name, _stated_at(stated, name)) for name in _shown(fit))
    return all(value in (None, getattr(fit.numerics, name)) for name, value in pairs)


def _differs(place: Place, stated: Numerics) -> bool:
    return _stated_at(stated, place.name) not in (None, place.value)


def _stated_at(stated: Numerics, name: str) -> str | None:
    """Return the value that a row requires at a place; None if it allows each."""
    value: str | None = getattr(stated, name)
    is_open = value == EITHER or (name == "combine_order" and value == "any")
    return None if is_open else value


def _to_state(
    places: Sequence[Place], stated: Numerics, wrong: Sequence[str], fitting: Fitting
) -> Numerics:
    """Return the row's numerics without what is wrong, and with what the outputs determine."""
    changes: dict[str, Any] = dict.fromkeys(wrong)
    for place in places:
        is_chosen = place.name == "weight_on" and fitting is Fitting.REPRODUCED
        if (place.is_determined or is_chosen) and _is_news(place, stated):
            changes[place.name] = place.value
    return replace(stated, **changes)


def _is_news(place: Place, stated: Numerics) -> bool:
    value = getattr(stated, place.name)
    return value is None or _differs(place, stated)


def _least(fits: Iterable[Fit]) -> Fit:
    return min(fits, key=lambda fit: fit.residual)


def _having(fits: Iterable[Fit], name: str, value: str) -> list[Fit]:
    return [fit for fit in fits if getattr(fit.numerics, name) == value]


def _values(fits: Iterable[Fit], name: str) -> list[str]:
    """Return the values that are tried at a place, in order."""
    return list(dict.fromkeys(getattr(fit.numerics, name) for fit in fits))
