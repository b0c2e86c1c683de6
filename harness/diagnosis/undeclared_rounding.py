"""Explain a failure by a customary rounding that the row does not state, or states wrongly.

The output is compared with the references of all customary numerics, not only of those that the row
leaves open. If one of them explains the call, the layer is not wrong: its row is. So it is with the
roundings of the router inside a whole layer that hides its routing.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from harness.checks.alternatives import fits_of, under_rounding
from harness.checks.output_rows import judge_call
from harness.diagnosis import which_rounding
from harness.fixtures.expected_answers import answered
from harness.fixtures.routing_truth import stated_roundings
from harness.record.diagnosis import NamedCause
from harness.record.result import Topic, Verdict
from moe.assumed_numerics import candidates
from moe.layers import COMPOSED
from moe.numerics import ROUNDED, Numerics, declaration
from moe.router_numerics import declaration as declaration_of_router

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.checks.check import Observation
    from harness.fixtures.layer_call import Call
    from harness.record.diagnosis import CallDiagnosis

NAME, MORE_EXACT = "undeclared_rounding", "more_exact"
# Places before the second product, which are tried one by one; later ones are noise.
_BEFORE = ("gemm1", "activated_gate", "activation", "weight_on")
_SUMS = ("accumulation", "promoted", "aligned", "reduction")  # stay as stated
MOST_TRIED = 8
# Stages whose roundings a row declares
ROUNDED_STAGES = ("gemm1", "activation", "second", "gemm2", "weighted", "combine", "finalize")

LEAVES = 0.9  # part of the error, at most: what leaves all of it explains nothing
AS_GOOD = 1.2  # times the smallest error: the fewest changes among these are named


def with_rounding(
    observation: Observation, failed: Sequence[Call], calls: list[CallDiagnosis]
) -> list[CallDiagnosis]:
    """Return the diagnoses with the cause if an undeclared rounding explains all wrong outputs.

    It is sought last, where no known mistake explains a call: it takes many references. It says
    more than that one stage is rounded, namely what to declare.
    """
    wrong = [call for call in failed if has_wrong_output(observation, call)]
    if all(is_explained(call) or call.fault or not call.output for call in calls):
        return calls
    if any(stage.stage not in ROUNDED_STAGES for call in calls for stage in call.stages[:1]):
        return calls  # what a row declares has no part in a stage that is wrong before or after
    try:
        rounding = router_cause(observation) or rounding_cause(observation, wrong)
    except Exception as error:
        text = f"undeclared rounding: {type(error).__name__}: {error}"
        first = dataclasses.replace(calls[0], faults=(*calls[0].faults, text))
        return [first, *calls[1:]]
    if rounding is None:
        return calls
    return [
        dataclasses.replace(call, causes=(rounding,)) if call.output else call for call in calls
    ]


def is_explained(call_diagnosis: CallDiagnosis) -> bool:
    return any(cause.name != which_rounding.NAME for cause in call_diagnosis.causes)


def has_wrong_output(observation: Observation, call: Call) -> bool:
    return any(f.topic in (Topic.ROWS, Topic.VALUES) for f in observation.of(call))


def router_cause(observation: Observation) -> NamedCause | None:
    """Return the cause if a hidden routing, rounded as the row excludes, explains all calls."""
    subject, device = observation.subject, observation.context.device
    if subject.case.layer == COMPOSED or not observation.hides_routing:
        return None
    explaining: list[tuple[float, str]] = []
    for resolved, rounding in stated_roundings(subject.case, device, silent=True).items():
        if resolved in subject.roundings:
            continue
        calls = under_rounding(observation, resolved).calls
        residual = _error(calls) / max(_error(observation.calls), math.ulp(0.0))
        if residual <= LEAVES and all(judge_call(c).verdict is not Verdict.FAILED for c in calls):
            explaining.append((residual, declaration_of_router(rounding)))
    if not explaining:
        return None
    residual, line = min(explaining)
    way = f"python -m harness numerics {subject.case.subject_option} measures it"
    text = f"its router rounds as the row does not declare: declare rounding={line} ({way})"
    return NamedCause(name=NAME, cause=text, residual=residual)


def rounding_cause(observation: Observation, calls: Sequence[Call]) -> NamedCause | None:
    """Return the cause if customary numerics that the row excludes explain all calls.

    calls: the failed ones.
    """
    stated = observation.subject.candidates.stated
    places = stated.places
    kept = [name for name in places if name not in _BEFORE]
    sums = [name for name in places if name in _SUMS]
    for names in (kept, sums):  # first with the later places as stated, then with all of them free
        free = Numerics(**{name: places[name] for name in names})
        nearest = _explained(observation, calls, free)
        if nearest is not None:
            residual, numerics = nearest
            return _cause(stated, numerics, observation.subject.case.subject_option, residual)
    return None


def _explained(
    observation: Observation, calls: Sequence[Call], free: Numerics
) -> tuple[float, Numerics] | None:
    """Return the nearest numerics that explain the calls, with the remaining part of the error."""
    subject = observation.subject
    case = subject.case
    device = observation.context.device.type
    alternatives = candidates(free, case.layer_spec.scheme, case.dtype, device)
    new = [n for n in alternatives.alternatives if n not in subject.candidates.alternatives]
    if not new:
        return None
    tried = dataclasses.replace(alternatives, alternatives=tuple(new))
    other = dataclasses.replace(subject, candidates=tried)
    fits = fits_of(dataclasses.replace(observation, subject=other, calls=calls), of_first=True)
    nearest = sorted((fit, number) for number, fit in enumerate(fits) if fit <= 1)
    explaining: list[tuple[float, Numerics]] = []
    for _, number in nearest[:MOST_TRIED]:
        reference = subject.reference.with_numerics(new[number])
        tested = dataclasses.replace(subject, reference=reference)
        answers = [answered(call, tested, observation.context) for call in observation.calls]
        judged = (judge_call(call).verdict for call in answers)
        residual = _error(answers) / max(_error(observation.calls), math.ulp(0.0))
        if residual <= LEAVES and Verdict.FAILED not in judged:
            explaining.append((residual, new[number]))
    stated = subject.candidates.stated
    best = min((residual for residual, _ in explaining), default=0.0)
    as_good = [pair for pair in explaining if pair[0] <= AS_GOOD * best]
    return min(as_good, key=lambda pair: (len(_changed(stated, pair[1])), pair[0]), default=None)


def _changed(stated: Numerics, fitting: Numerics) -> dict[str, str]:
    """Return the places that were found to be otherwise than stated, with what was found."""
    names = dict.fromkeys((*_BEFORE, *ROUNDED))
    pairs = ((name, getattr(stated, name), getattr(fitting, name)) for name in names)
    return {name: new for name, old, new in pairs if old not in (None, new)}


def _error(calls: Sequence[Call]) -> float:
    """Return the norm of all calls' errors; NaN, which a right output may hold, counts as 0."""
    errors = (call.output.out.to(call.answer.out.dtype) - call.answer.out for call in calls)
    return math.hypot(*(float(error.nan_to_num(posinf=0, neginf=0).norm()) for error in errors))


def _cause(stated: Numerics, fitting: Numerics, option: str, residual: float) -> NamedCause:
    """Return the cause: which places differ from the row, and the line to declare."""
    changed = _changed(stated, fitting)
    before = {name: value for name, value in changed.items() if name in _BEFORE}
    more_exact = bool(changed) and all(value == "f32" for value in changed.values())
    places = ", ".join(
        f'{name} = "{value}" where it states "{stated.places[name]}"'
        for name, value in (before or changed).items()
    )
    line = declaration(_declared(stated, fitting))
    head = (
        "the member is more exact than its row declares"
        if more_exact
        else "a rounding that the row does not declare"
    )
    text = f"{head}: {places or 'see the line'}; declare numerics={line}"
    measured = f"{text} (python -m harness numerics {option} measures it)"
    return NamedCause(name=MORE_EXACT if more_exact else NAME, cause=measured, residual=residual)


def _declared(stated: Numerics, fitting: Numerics) -> Numerics:
    """Return the row's numerics with the places before the second product as found."""
    return dataclasses.replace(stated, **{name: getattr(fitting, name) for name in _BEFORE})
