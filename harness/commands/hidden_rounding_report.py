"""Write what outputs say of the router inside a whole layer that hides its routing. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.commands.numerics_decision import is_worse
from harness.commands.numerics_report import steps_text
from moe.router_numerics import declaration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.record.rounding_fit import HiddenRounding, RoundingFit


@dataclass(frozen=True, kw_only=True)
class HiddenDecision:
    """Hold the nearest declaration, those that fit as well, and the nearest that is clearly worse.

    is_explained: whether the nearest one reproduces the outputs. is_wrong: whether the row states
    another one, although this one alone fits.
    """

    best: RoundingFit
    rivals: tuple[RoundingFit, ...]
    next_best: RoundingFit | None
    is_explained: bool
    is_wrong: bool


def decide_hidden(hidden: HiddenRounding) -> HiddenDecision:
    """Return what the fits say: a declaration is determined if all others are clearly worse."""
    best, *others = hidden.tried
    rivals = tuple(other for other in others if not is_worse(other.fit, best.fit))
    worse = [other for other in others if other not in rivals]
    is_determined = best.fit.reproduces and not rivals
    return HiddenDecision(
        best=best,
        rivals=rivals,
        next_best=worse[0] if worse else None,
        is_explained=best.fit.reproduces,
        is_wrong=is_determined and hidden.is_stated and not hidden.is_assumed,
    )


def lines(hidden: HiddenRounding) -> Iterator[str]:
    """Yield the report on the router, and the line for the class if it would change."""
    decision = decide_hidden(hidden)
    yield ""
    if not decision.is_explained:
        yield f"Where its router rounds is not determined: {_leaves(decision.best)} rounding steps."
        return
    if decision.rivals:
        others = "; ".join(_leaves(other) for other in decision.rivals)
        yield f"Its router may round in several ways: {_leaves(decision.best)} rounding steps;"
        yield f"{others}. No line is proposed: state what the source says."
        return
    rest = "" if decision.next_best is None else f"; the next best, {_leaves(decision.next_best)}"
    yield f"Its router: {_leaves(decision.best)} rounding steps{rest}."
    if hidden.is_assumed and hidden.is_stated:
        yield "It routes as its row states."
        return
    verb = "states another one" if decision.is_wrong else "states none"
    yield f"Its row {verb}. Paste into the class:"
    yield f"  rounding = {declaration(decision.best.rounding)}"


def _leaves(tried: RoundingFit) -> str:
    return f"{declaration(tried.rounding)} leaves {steps_text(tried.fit.residual)}"
