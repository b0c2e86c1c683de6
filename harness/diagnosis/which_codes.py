"""Find by which rule wrong codes of activations were rounded: toward zero, down, at ties only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.record.diagnosis import NamedCause
from moe.reference.formats import step_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors
    from moe.formats.format import Format

NAME = "which_codes"
STAGES = ("input", "second")
FEWEST = 8  # wrong codes
MANY, FEW = 0.3, 0.1  # of the codes other than 0: of another rounding, and of ties only


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield the rule if all wrong codes are one step off, to the same side."""
    yield from said_of_codes(evidence, NAME, which_codes)


def said_of_codes(
    evidence: Evidence, name: str, clause: Callable[[StageErrors, Format], str | None]
) -> Iterator[NamedCause]:
    """Yield a cause of this name if the first wrong stage is of codes of which a clause holds."""
    errors = evidence.errors
    if errors is None or errors.stage not in STAGES or errors.noun != "elements":
        return
    assert evidence.subject is not None, "a stage is read of a subject"
    fmt = evidence.subject.reference.act_format
    text = None if fmt.grid == "model" else clause(errors, fmt)
    if text is not None:
        yield NamedCause(name=name, cause=f"{errors.place} {text}", residual=0.0)


def which_codes(errors: StageErrors, fmt: Format) -> str | None:
    """Return what all wrong codes have in common, as a clause, or None."""
    actual, expected, wrong = errors.actual, errors.expected, errors.is_wrong
    if int(wrong.sum()) < FEWEST or not bool(actual.isfinite().all()):
        return None
    step = step_of(torch.maximum(actual.abs(), expected.abs()), fmt)
    change = actual - expected
    if not bool((change.abs() <= 1.01 * step)[wrong].all()):
        return None
    side = _side(actual[wrong], expected[wrong])
    if side is None:
        return None
    share = float(wrong.sum()) / max(int((expected != 0).sum()), 1)
    head = f"{share:.0%} of the codes are one step {side}, and none is off otherwise"
    if share <= FEW:
        ties = "as by another rule for ties, or by scales that are little off"
        return f"{head}: {ties}" if errors.stage == "second" else None
    if share < MANY:
        return None
    return f"{head}: as by another rule of rounding, or by other scales"


def _side(actual: Tensor, expected: Tensor) -> str | None:
    """Return on which side of the expected codes all wrong ones are, or None. Both [n].

    Of codes of one sign it is said which sign: zero is then no better name for the side.
    """
    is_low, is_high = bool((actual < expected).all()), bool((actual > expected).all())
    if is_low or is_high:
        side = "low" if is_low else "high"
        signs = {"negative": bool((expected < 0).all()), "positive": bool((expected > 0).all())}
        which = next((f", all of them {sign}" for sign, holds in signs.items() if holds), "")
        return f"too {side}{which}"
    is_one_sign = actual * expected >= 0
    if bool(((actual.abs() < expected.abs()) & is_one_sign).all()):
        return "too close to zero"
    return "too far from zero" if bool((actual.abs() > expected.abs()).all()) else None
