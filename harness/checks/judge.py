"""Judge a case: run the table of checks, under each customary rounding that its row leaves open.

A row that states its numerics has one reference. Where it leaves a rounding before the second
product open, the checks that depend on the reference run again for the alternatives that can
explain the outputs; one of them must explain all calls on all ranks. So it is with the roundings of
the router inside a whole layer, if the layer hides its routing and states none.
"""

from __future__ import annotations

import dataclasses
import traceback
from typing import TYPE_CHECKING

from harness.checks import agreement
from harness.checks.alternatives import fits_of, under, under_rounding
from harness.fixtures.collective_agreement import CollectivesDiffer
from harness.record.result import Finding, Verdict, worst

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from harness.checks.check import Check, Observation
    from harness.fixtures.phase_timer import Clock

MOST_TRIED = 6  # alternatives that are judged in full, the nearest first


def judge(observation: Observation, table: Sequence[Check], clock: Clock) -> Observation:
    """Return the observation with the findings of the table, under the numerics that fit.

    If none fits, those with the fewest findings. Collective.
    """
    try:
        return _judged(observation, table, clock)
    except CollectivesDiffer as error:  # in a call that a check made
        return run_table(dataclasses.replace(observation, out_of_step=error), table, clock)


def _judged(observation: Observation, table: Sequence[Check], clock: Clock) -> Observation:
    judged = run_table(observation, table, clock)
    by_reference = [check for check in table if check.by_reference]
    if observation.out_of_step is not None or _has_error(judged):
        return judged
    others = observation.subject.roundings[1:]
    several = observation.subject.candidates.several
    if not (several or others) or _is_right_everywhere(judged, by_reference):
        return judged
    best = _best(judged, by_reference, clock) if several else judged
    if not others or _has_error(best) or _is_right_everywhere(best, by_reference):
        return best
    return _rounded_otherwise(judged, by_reference, clock) or best


def _rounded_otherwise(
    judged: Observation, table: Sequence[Check], clock: Clock
) -> Observation | None:
    """Return the observation under other roundings of a hidden routing that explain all, or None.

    Collective.
    """
    world_size = judged.context.world_size
    if not agreement.on_all_ranks([judged.hides_routing], world_size)[0]:
        return None
    for numerics in judged.subject.roundings[1:]:
        with clock.phase("alternatives"):
            other = under_rounding(judged, numerics)
            fits = agreement.largest_on_all_ranks(fits_of(other, of_first=True), world_size)
        if min(fits) > 1:
            continue
        tried = run_table(_without(other, table), table, clock)
        several = tried.subject.candidates.several
        if several and not _has_error(tried) and not _is_right_everywhere(tried, table):
            tried = _best(tried, table, clock)
        if _has_error(tried) or _is_right_everywhere(tried, table):
            return tried
    return None


def _best(judged: Observation, table: Sequence[Check], clock: Clock) -> Observation:
    """Return the observation under an alternative that explains all.

    If none does: under that with the fewest findings, on the rank that has most. Collective.
    """
    world_size = judged.context.world_size
    with clock.phase("alternatives"):
        fits = agreement.largest_on_all_ranks(fits_of(judged), world_size)
    nearest = sorted(range(len(fits)), key=fits.__getitem__)
    tried = [judged]
    for number in [n for n in nearest if n and fits[n] <= 1][:MOST_TRIED]:
        other = _judged_under(judged, number, table, clock)
        if _has_error(other) or _is_right_everywhere(other, table):
            return other
        tried.append(other)
    wrong_counts = [float(len(_wrong(observation, table))) for observation in tried]
    counts = agreement.largest_on_all_ranks(wrong_counts, world_size)
    return tried[counts.index(min(counts))]


def _judged_under(
    judged: Observation, number: int, table: Sequence[Check], clock: Clock
) -> Observation:
    """Return the observation judged again by the checks that depend on the reference."""
    with clock.phase("alternatives"):
        other = under(judged, number)
    return run_table(_without(other, table), table, clock)


def _without(observation: Observation, table: Sequence[Check]) -> Observation:
    """Return the observation without the findings of these checks."""
    names = {check.name for check in table}
    findings = tuple(finding for finding in observation.findings if finding.check not in names)
    return dataclasses.replace(observation, findings=findings)


def _is_right_everywhere(observation: Observation, table: Sequence[Check]) -> bool:
    """Tell whether no check of the table found wrong numbers on any rank. Collective."""
    is_right = not _wrong(observation, table)
    return agreement.on_all_ranks([is_right], observation.context.world_size)[0]


def _wrong(observation: Observation, table: Sequence[Check]) -> list[Finding]:
    """Return the findings of these checks that say that numbers are wrong."""
    names = {check.name for check in table}
    return [f for f in observation.findings if f.verdict is Verdict.FAILED and f.check in names]


def _has_error(observation: Observation) -> bool:
    return any(finding.verdict is Verdict.ERROR for finding in observation.findings)


def run_table(observation: Observation, table: Iterable[Check], clock: Clock) -> Observation:
    """Return the observation with the findings of each check of the table, in order.

    After an exception in a check this rank joins no more collectives: it cannot know how far the
    other ranks are. Checks that need no other rank run all the same.
    """
    for check in table:
        if check.collective and _has_error(observation):
            continue
        if check.of_calls and observation.out_of_step is not None:
            continue
        with clock.phase(check.phase):
            findings = _run(check, observation)
        observation = dataclasses.replace(observation, findings=(*observation.findings, *findings))
    return observation


def _run(check: Check, observation: Observation) -> tuple[Finding, ...]:
    """Return the findings of a check; an exception in it is one of them."""
    try:
        return check.run(observation) if agreement.applies(check, observation) else ()
    except CollectivesDiffer:
        raise
    except Exception as error:
        head = f"the check {check.name!r} raised {type(error).__name__}: {error}"
        text = f"{head}\n{traceback.format_exc().strip()}"
        return (Finding(check=check.name, text=text, verdict=Verdict.ERROR),)


def verdict(findings: Iterable[Finding]) -> Verdict:
    """Return the worst verdict of the findings; PASSED if there is none."""
    return worst(finding.verdict for finding in findings)
