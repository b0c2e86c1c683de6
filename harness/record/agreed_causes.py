"""Keep a cause only if the calls of all ranks that show the same first wrong stage agree with it.

A rank explains each of its failed calls alone, so that what fits a few wrong rows of one call by
chance is seen only here, beside the other calls and ranks. Torch-free.
"""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from harness.record.diagnosis import STAGE_INTERVAL

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.record.diagnosis import CallDiagnosis, Diagnosis, NamedCause

VERBS = r"(count\b|are\b|have\b|hold\b)"
MOVED = ("rows_moved", "stage_moved", "moved_shares")
LEFT_OUT = re.compile(r"left out|dropped|missing|not added")
FEW = 0.5  # wrong values without the cause, as a part of those with it: too few to contradict it
SURE_ROWS = 4  # wrong rows of a stage, all explained: no statement fits as many by chance
SURE_RESIDUAL = 0.1  # part of the error that such a statement leaves, at most
SIDE = re.compile(r"the row (\d+ )?(before|after) it")


def agreed(diagnoses: Sequence[Diagnosis]) -> tuple[Diagnosis, ...]:
    """Return the diagnoses with contradicted causes moved to `CallDiagnosis.contradicted`.

    A cause about a stage is compared with the calls that show this one as the first wrong stage; a
    cause about the output, with the calls whose output is wrong, in the same stage if one is known.
    A call supports a cause if it names the same one, whatever the numbers in it. What all calls of
    one rank name, and at least two, stands: ranks have different parts. What explains SURE_ROWS
    wrong rows of a stage stands, too, unless another call names something else: a call without any
    cause may lack the rows or the precision to find it. Where one call knows its first wrong stage,
    the others do not say where theirs may be: some are judged in one call only.
    """
    calls = [call for diagnosis in diagnoses for call in diagnosis.calls]
    if any(call.stages for call in calls):
        diagnoses = [without_intervals(diagnosis) for diagnosis in diagnoses]
    return tuple(
        dataclasses.replace(
            one, calls=tuple(with_agreed_causes(call, calls, one.calls) for call in one.calls)
        )
        for one in diagnoses
    )


def without_intervals(diagnosis: Diagnosis) -> Diagnosis:
    """Return the diagnosis without the stages of which one may be the first wrong one."""
    calls = [
        dataclasses.replace(
            call, patterns=tuple(p for p in call.patterns if p.name != STAGE_INTERVAL)
        )
        for call in diagnosis.calls
    ]
    return dataclasses.replace(diagnosis, calls=tuple(calls))


def with_agreed_causes(
    call: CallDiagnosis, calls: Sequence[CallDiagnosis], of_rank: Sequence[CallDiagnosis]
) -> CallDiagnosis:
    """Return the call without the causes that the others contradict.

    calls: of all ranks. of_rank: those of the call's own rank.
    """
    kept = [
        cause
        for cause in call.causes
        if is_supported(cause, call, calls, kind_of) or are_unanimous(cause, call, of_rank)
    ]
    others = tuple(cause for cause in call.causes if cause not in kept)
    if not kept:
        less = [weak for cause in others if (weak := weakened(cause, call, calls)) is not None]
        less += [weak for weak in call.weaker if is_supported(weak, call, calls, kind_of)]
        kept = less[:1]
    return dataclasses.replace(call, causes=tuple(kept), weaker=(), contradicted=others)


def is_supported(
    cause: NamedCause,
    call: CallDiagnosis,
    calls: Sequence[CallDiagnosis],
    kind: Callable[[NamedCause], str],
) -> bool:
    """Tell whether the calls that could, but do not, name a cause of this kind are of no weight."""
    supporting = against = 0
    for peer in calls:
        weight = weight_of(peer, cause, call)
        if names(peer, cause, kind):
            supporting += weight
        elif peer.causes or not is_sure(cause, call):
            against += weight
    return against <= FEW * supporting


def is_sure(cause: NamedCause, call: CallDiagnosis) -> bool:
    """Tell whether a statement explains so many rows of a stage that it is none by chance."""
    rows = call.stages[0].where.get("rows", ()) if call.stages else ()
    is_exact = not cause.where and cause.residual <= SURE_RESIDUAL
    return is_of_stage(cause) and is_exact and len(rows) >= SURE_ROWS


def are_unanimous(cause: NamedCause, call: CallDiagnosis, of_rank: Sequence[CallDiagnosis]) -> bool:
    """Tell whether the calls of a rank that a cause should explain, at least two, all name it."""
    asked = [peer for peer in of_rank if weight_of(peer, cause, call)]
    return len(asked) > 1 and all(names(peer, cause, kind_of) for peer in asked)


def names(peer: CallDiagnosis, cause: NamedCause, kind: Callable[[NamedCause], str]) -> bool:
    """Tell whether a call names a cause of the same kind."""
    others = (*peer.causes, *peer.weaker)
    own = of_any_stage(kind(cause))
    return any(of_any_stage(kind(o)) == own or are_alike(o, cause) for o in others)


def of_any_stage(kind: str) -> str:
    """Return a kind without its stage: what is known of an output need not say where it begins."""
    return re.sub(r"\bin stage \w+ ", "", kind)


def weight_of(peer: CallDiagnosis, cause: NamedCause, call: CallDiagnosis) -> int:
    """Return how many wrong values of a peer the cause of `call` should explain; 0 if none."""
    if peer.fault is not None:
        return 0
    stage = stage_of(call)
    if is_of_stage(cause):
        has_mistake = any(not (is_of_stage(c) or c.where) for c in peer.causes)
        is_asked = stage_of(peer) == stage and not has_mistake  # else no statement was sought
        return peer.stages[0].bad if is_asked and stage else 0
    is_wrong = peer.output or peer.wrong_rows > 0
    # A single row fits many mistakes: then calls of an unknown stage must agree, too.
    is_single = call.wrong_rows < 2 and not stage_of(peer)
    may_be_same = is_single or stage in ("", stage_of(peer))
    return max(peer.wrong_rows, 1) if is_wrong and may_be_same else 0


def is_of_stage(cause: NamedCause) -> bool:
    """Tell whether a cause is a statement about a stage."""
    return cause.cause.startswith("in stage ")


def are_alike(one: NamedCause, other: NamedCause) -> bool:
    """Tell whether both say the same of an output and of a stage, in other words.

    Both leave something out, and at most one of them says what by a condition; or both take rows,
    or terms of them, from the same distance.
    """
    sides = [SIDE.search(cause.cause) for cause in (one, other) if cause.name in MOVED]
    if len(sides) == 2 and None not in sides:
        return len({side.group() for side in sides if side is not None}) == 1
    is_condition = [what_of(cause) != kind_of(cause) for cause in (one, other)]
    return not all(is_condition) and all(LEFT_OUT.search(c.cause) for c in (one, other))


def kind_of(cause: NamedCause) -> str:
    """Return the cause without its numbers, and without what is the same in one call only."""
    if cause.name in MOVED[:2]:  # which rows differs from call to call
        return cause.name
    text = re.sub(r" \(the same: [^)]*\)", "", f"{cause.name}: {cause.cause}")
    return re.sub(r"[-+]?\d[\d.,e+-]*", "#", text)


def what_of(cause: NamedCause) -> str:
    """Return what the cause says happens, without which rows or terms it happens to."""
    return re.sub(
        rf"(: |\b)(the|all|some|most) (\w+)\b.*? {VERBS}", r"\1some \3 \4", kind_of(cause)
    )


def weakened(
    cause: NamedCause, call: CallDiagnosis, calls: Sequence[CallDiagnosis]
) -> NamedCause | None:
    """Return the cause without which values it is about, if all agree on the rest; else None."""
    if what_of(cause) == kind_of(cause) or not is_supported(cause, call, calls, what_of):
        return None
    some = re.sub(rf"\b(the|all|some|most) (\w+)\b.*? {VERBS}", r"some \2 \3", cause.cause)
    return dataclasses.replace(
        cause, cause=f"{some}; which ones, calls or ranks differ about", where=""
    )


def stage_of(call: CallDiagnosis) -> str:
    """Return the first wrong stage; empty if none is known."""
    return call.stages[0].stage if call.stages else ""
