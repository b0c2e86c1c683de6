"""Find by which other function of gate and up a wrong activation was computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from harness.checks.stages_combine import router_weights
from harness.diagnosis.activation_formulas import formulas
from harness.diagnosis.fit import MAX_RESIDUAL
from harness.diagnosis.stage_terms import handed_of
from harness.diagnosis.wrong_rows import spread
from harness.record.diagnosis import NamedCause

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.stage_errors import StageErrors
    from moe.reference.activation import TrueActivation

NAME = "which_function"
MOST_NAMED = 2
MOST_ELEMENTS = 2**15  # of wrong rows, and as many of right ones
FEWEST = 8  # wrong elements
SMALL = 0.05  # values of gate and up below it say little of a factor
SAME = 0.02  # distance at which two solutions for a parameter are the same
SHOWN = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0)  # gates at which a function is shown
NEAR = 0.25  # distance of a gate from such a one, at most


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield the formula that gives the values of a wrong activation."""
    errors = evidence.errors
    if errors is None or errors.stage != "activation" or evidence.subject is None:
        return
    handed, reference = handed_of(evidence), evidence.subject.reference
    gate, up = reference.activation.split(handed.rows("gemm1", errors.numbers))
    weight = torch.ones_like(gate[:, :1])
    if reference.numerics.weight_on == "intermediate":
        weight = router_weights(handed, errors.numbers)[:, None]
    rows = _sampled(errors)
    few = (gate[rows], None if up is None else up[rows], weight[rows])
    if any(which_function(errors.of_rows(rows), reference.activation, few)):
        yield from which_function(errors, reference.activation, (gate, up, weight))


def _sampled(errors: StageErrors) -> Tensor:
    """Return [r], wrong and right rows on which all formulas are tried: many rows take long."""
    is_wrong = errors.is_wrong.any(dim=1)
    limit = max(MOST_ELEMENTS // errors.actual.shape[1], FEWEST)
    wrong = spread(is_wrong.nonzero().flatten(), limit)
    return torch.cat([wrong, spread((~is_wrong).nonzero().flatten(), limit)]).sort().values


def which_function(
    errors: StageErrors, activation: TrueActivation, given: tuple[Tensor, Tensor | None, Tensor]
) -> Iterator[NamedCause]:
    """Yield at most MOST_NAMED statements, the simplest ones.

    given: gate [R, n], up [R, n] or None, and the weights [R, 1] by which the values are
    multiplied.
    """
    gate, up, weight = given
    if not bool(errors.actual.isfinite().all()) or int(errors.is_wrong.sum()) < FEWEST:
        return
    causes: list[NamedCause] = []
    for text, value in formulas(activation, gate, up):
        if causes and " and " in text:
            break
        residual = errors.left_by(value * weight)
        if residual is not None and residual <= MAX_RESIDUAL:
            causes.append(_cause(errors, text, residual))
    if not causes and up is not None:
        causes = [*_up_clamped(errors, activation, weight * activation.of_gate(gate).value, up)]
    factor = weight if up is None else weight * activation.of_up(up).value
    if not causes:
        causes = [*_solved(errors, activation, gate, factor)]
    yield from sorted(causes, key=lambda cause: cause.residual)[:MOST_NAMED]


def _cause(errors: StageErrors, text: str, residual: float) -> NamedCause:
    return NamedCause(name=NAME, cause=f"{errors.place} {text}", residual=residual)


def _solved(
    errors: StageErrors, activation: TrueActivation, gate: Tensor, factor: Tensor
) -> Iterator[NamedCause]:
    """Yield a formula with a number that is solved for, or else how the function differs.

    factor: [R, n], what the function of the gate is multiplied by.
    """
    held = errors.actual / factor
    is_clear = (factor.abs() > SMALL) & (gate.abs() > SMALL)
    limited = gate if activation.limit is None else gate.clamp(max=activation.limit)
    for text, value in (
        *_clamps(activation, gate, held, is_clear),
        *_alphas(limited, held, is_clear),
    ):
        residual = errors.left_by(value * factor)
        if residual is not None and residual <= MAX_RESIDUAL:
            yield _cause(errors, text, residual)
            return
    yield from _function_of_gate(errors, activation, gate, factor)


def _clamps(
    activation: TrueActivation, gate: Tensor, held: Tensor, is_clear: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """Yield the gate clamped from above or below where the function no longer changes."""
    own = activation.of_gate(gate).value
    is_wrong = is_clear & ((held - own).abs() > SAME * own.abs())
    if not bool(is_wrong.any()):
        return
    for side, sign in (("above", 1.0), ("below", -1.0)):
        first = float((gate[is_wrong] * sign).min() * sign)
        limit = _reached(activation, float(held[is_wrong].median()), first)
        for bound in dict.fromkeys((round(limit, 1), round(limit, 2), limit)):
            clamped = gate.clamp(max=bound) if sign > 0 else gate.clamp(min=bound)
            yield (
                f"the gate is clamped from {side} at {bound:.3g}",
                activation.of_gate(clamped).value,
            )


def _up_clamped(
    errors: StageErrors, activation: TrueActivation, factor: Tensor, up: Tensor
) -> Iterator[NamedCause]:
    """Yield that up is clamped from above or below, where all wrong elements hold one value of it.

    factor: [R, n], what up is multiplied by.
    """
    held = errors.actual / factor - activation.beta
    is_clear = errors.is_wrong & (factor.abs() > SMALL)
    if int(is_clear.sum()) < FEWEST:
        return
    for side, sign in (("above", 1.0), ("below", -1.0)):
        limit = float(held[is_clear & (up * sign > 0)].median())
        for bound in dict.fromkeys((round(limit, 1), round(limit, 2), limit)):
            clamped = up.clamp(max=bound) if sign > 0 else up.clamp(min=bound)
            residual = errors.left_by(activation.of_up(clamped).value * factor)
            if residual is not None and residual <= MAX_RESIDUAL:
                yield _cause(errors, f"up is clamped from {side} at {bound:.3g}", residual)
                return


def _reached(activation: TrueActivation, value: float, near: float) -> float:
    """Return the gate, at most 0.5 from `near`, at which the right function has this value."""
    gates = near + torch.linspace(-0.5, 0.5, 1001)
    return float(gates[(activation.of_gate(gates).value - value).abs().argmin()])


def _alphas(gate: Tensor, held: Tensor, is_clear: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Yield g * sigmoid(alpha * g) with the alpha that most elements agree on."""
    ratio = held / gate
    known = is_clear & (ratio > SAME) & (ratio < 1 - SAME) & (gate.abs() > 0.5)
    if int(known.sum()) < FEWEST:
        return
    alpha = float((torch.logit(ratio[known]) / gate[known]).median())
    for value in dict.fromkeys((round(alpha, 2), alpha)):
        yield (
            f"the function of the gate is gate * sigmoid({value:.4g} * gate)",
            gate * torch.sigmoid(value * gate),
        )


def _function_of_gate(
    errors: StageErrors, activation: TrueActivation, gate: Tensor, factor: Tensor
) -> Iterator[NamedCause]:
    """Yield that another function of the gate was computed, if the gate alone determines it.

    Elements next to each other in the order of their gates must hold nearly the same: as near as
    those of the right function, and the tolerance.
    """
    held, own = errors.actual / factor, activation.of_gate(gate).value
    noise = errors.noise / factor.abs()
    use = factor.abs() > SMALL
    if int(use.sum()) < 16 * FEWEST:
        return
    order = gate[use].argsort()
    x, y, right, error = (values[use][order] for values in (gate, held, own, noise))
    between = ((x[1:-1] - x[:-2]) / (x[2:] - x[:-2]).clamp(min=1e-9)).clamp(0, 1)
    line = y[:-2] + between * (y[2:] - y[:-2])
    gap = x[2:] - x[:-2]
    allowed = 2 * (error[1:-1] + torch.maximum(error[:-2], error[2:])) + gap.square() + gap * SMALL
    if not bool(((y[1:-1] - line).abs() <= allowed).all()):
        return
    apart = (y - right).abs()
    if float((apart > 2 * error).double().mean()) < SMALL or float(apart.max()) < SAME:
        return
    points = []
    for at in SHOWN:
        nearest = int((x - at).abs().argmin())
        if abs(float(x[nearest]) - at) <= NEAR and apart[nearest] > 2 * error[nearest]:
            points.append(f"{float(y[nearest]):.3g} at {float(x[nearest]):.3g}")
            points[-1] += f" where {float(right[nearest]):.3g} is right"
    if points:
        text = f"up is as it should be, but the gate's function is another one: {', '.join(points)}"
        yield _cause(errors, text, 0.0)
