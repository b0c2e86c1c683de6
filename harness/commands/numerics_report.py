"""Write the lines that `numerics` prints: each place with its evidence, then the row's state."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from harness.commands.numerics_decision import Fitting
from harness.matrix.case import MoETestConfig
from moe.layers import COMPOSED
from moe.numerics import Numerics, declaration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.commands.numerics_decision import Decision, Place
    from harness.record.rounding_fit import Measured

_ROW = "  {:<16}{:<16}{}"
_CERTAIN = 1000  # times the residual: more says no more
_NEAR = 1.0  # rounding steps: outputs that are further off are not about roundings


def lines(case: MoETestConfig, measured: Measured, decision: Decision) -> list[str]:
    """Return the report. case: one of those that ran."""
    if decision.fitting is Fitting.NONE:
        is_near = decision.best.residual <= _NEAR
        table = [*_table(decision), ""] if is_near else []
        return [*table, *_unexplained(decision)]
    shown = [*_table(decision), "", *_fitting(measured, decision)]
    return [*shown, *_of_row(decision), *_to_paste(case, decision)]


def _table(decision: Decision) -> Iterator[str]:
    """Yield a line for each place: its value, and what each other value would leave."""
    yield _ROW.format("place", "value", "what other values leave, and times more")
    least = decision.best.residual
    for place in decision.places:
        if place.is_determined:
            rivals = ", ".join(_rival(value, residual, least) for value, residual in place.others)
            yield _ROW.format(place.name, place.value, rivals).rstrip()
        else:
            yield _ROW.format(place.name, "not determined", _tie(place, least))


def _tie(place: Place, least: float) -> str:
    """Return the value of a place that is not determined beside its nearest rival."""
    rival, residual = min(place.others, key=lambda other: other[1])
    choice = f"; {place.value} is taken" if place.name == "weight_on" else ""
    return f"{place.value} leaves {steps_text(least)} and {rival} {steps_text(residual)}{choice}"


def _rival(value: str, residual: float, least: float) -> str:
    """Return a value with the residual that it leaves, in itself and relative to the least."""
    if least == 0:
        return f"{value} {steps_text(residual)}"
    times = residual / least
    ratio = f"{times:.0f}x" if times <= _CERTAIN else f"over {_CERTAIN}x"
    return f"{value} {steps_text(residual)} ({ratio if times >= 10 else f'{times:.1f}x'})"


def steps_text(residual: float) -> str:
    """Return a residual in output steps, as text."""
    if 0 < residual < 0.0001:
        return "under 0.0001"
    return f"{residual:.4f}".rstrip("0").rstrip(".") if residual < 0.1 else f"{residual:.2f}"


def _fitting(measured: Measured, decision: Decision) -> Iterator[str]:
    total, residual = sum(measured.values), steps_text(decision.best.residual)
    equal = total - decision.best.total_unequal
    share = (
        f"{equal} of {total} output values bit for bit and leave {residual} rounding steps (rms)"
    )
    if decision.fitting is Fitting.REPRODUCED:
        yield f"These roundings reproduce {share}."
    elif decision.fitting is Fitting.WITHIN:
        used = f"{100 * max(measured.used):.0f} % of it used"
        yield f"The nearest roundings reproduce only {share}."
        yield f"That is within the tolerance for the noise of its sums ({used}), which hides some"
        yield "roundings: leave the places open that are not determined."


def _unexplained(decision: Decision) -> Iterator[str]:
    residual = decision.best.residual
    distance = (
        "has no finite distance"
        if math.isinf(residual)
        else f"leaves {steps_text(residual)} rounding steps (rms)"
    )
    yield f"No customary rounding explains this: the nearest {distance}."
    yield "The smallest case that none explains; its diagnosis names known mistakes:"
    yield f"  python -m harness run --case {decision.first_wrong}"


def _of_row(decision: Decision) -> Iterator[str]:
    """Yield what the row has to do with it."""
    names = ", ".join(decision.wrong)
    if decision.is_more_exact:
        verb = "is" if len(decision.wrong) == 1 else "are"
        yield f"It is more exact than its row declares: {names} {verb} not rounded."
    elif decision.ambiguous_at is not None:
        top_k = MoETestConfig.from_id(decision.ambiguous_at).top_k
        yield f"Its row is ambiguous at top_k {top_k}: only there another combination fits better,"
        yield "and no place in which both differ is determined."
    elif decision.wrong:
        yield f"Its row is wrong: {', '.join(_contradiction(decision, n) for n in decision.wrong)}."
    elif any(getattr(decision.stated, place.name) is not None for place in decision.places):
        yield "It rounds as its row declares."
    else:
        yield "Its row declares none of these places: they are assumed, case by case."


def _contradiction(decision: Decision, name: str) -> str:
    stated, value = getattr(decision.stated, name), getattr(decision.best.numerics, name)
    return f"{name} is {value}, not {stated}"


def _to_paste(case: MoETestConfig, decision: Decision) -> Iterator[str]:
    """Yield the declaration for the row, if it would change."""
    if not decision.adds:
        return
    text = _expression(decision.to_state)
    activations = case.layer_spec.scheme.activations
    yield "Paste into the row:" if case.layer == COMPOSED else "Paste into the class:"
    if case.layer != COMPOSED:
        yield f"  numerics = {text}"
    elif activations == "model":
        yield f"  numerics={text},"
    else:
        yield f'  numerics_of={{"{activations}": {text}}},'


def _expression(numerics: Numerics) -> str:
    """Return a declaration; one that states every place names those that are not plain."""
    if numerics.unstated:
        return declaration(numerics)
    plain = Numerics.stated().places
    special = {name: v for name, v in numerics.places.items() if plain.get(name) != v}
    return declaration(Numerics(**special)).replace("Numerics(", "Numerics.stated(", 1)
