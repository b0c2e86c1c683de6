"""Narrow a plan by options: `-k` keeps cases, `--exclude` refuses them, each for a stated reason.

Both look at the ids of the cases that would run, in which a member stands for `auto`. What `-k`
leaves out was not asked for. What `--exclude` leaves out was: it is skipped with the reason code
`excluded`, and recorded like every other refusal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.errors import NothingSelected, UsageError
from harness.matrix.id_filter import matcher
from harness.matrix.suite_size import MOST_CASES
from moe.reason import Reason

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    from harness.plan.plan import Plan
    from harness.record.run_info import RefusedCase

EXCLUDED = "excluded"  # the reason code


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """Cases that are left out on request, and why."""

    expression: str  # as of `-k`
    reason: str


def narrowed(plan: Plan, args: argparse.Namespace, earlier: Iterable[RefusedCase] = ()) -> Plan:
    """Return the plan as the options of `run` and `list` narrow it.

    earlier: what the run that is resumed has refused. Exclusions come first, so that `-k` may
    leave out what they are about.
    """
    plan = excluded_before(plan, earlier)
    plan = without_excluded(plan, exclusions(args.exclude, args.reason))
    return plan if args.keep is None else kept(plan, args.keep)


def check_repeat(plan: Plan, args: argparse.Namespace) -> None:
    """Raise UsageError if `--repeat` is given and does not go with the cases or other options."""
    if args.repeat is None:
        return
    if args.repeat > MOST_CASES:
        raise UsageError(f"--repeat must be at most {MOST_CASES:,}, not {args.repeat:,}")
    if len(plan.cases) != 1:
        count = len(plan.cases)
        raise UsageError(f"--repeat runs one case, not {count}; name it with --case ID or -k")
    if args.resume or args.retries:
        raise UsageError("--repeat counts every failure: leave out --resume and --retries")


def kept(plan: Plan, expression: str) -> Plan:
    """Return the plan with the cases and refusals whose ids an expression matches.

    Raises UsageError for an expression that cannot be read, NothingSelected if none matches.
    """
    matches = matcher(expression)
    refused = plan.refused.where(map(matches, plan.refused.cases.ids()))
    narrowed = replace(plan.where(matches), refused=refused)
    if not (narrowed.cases or narrowed.refused):
        count = len(plan.cases) + len(plan.refused)
        text = f"-k {expression!r} matches none of {count} case id(s)"
        raise NothingSelected(f"{text}; `python -m harness list` prints them")
    return narrowed


def exclusions(expressions: Sequence[str], reasons: Sequence[str]) -> tuple[Exclusion, ...]:
    """Return what `--exclude` and `--reason` ask for. Raises UsageError unless they are pairs."""
    if len(expressions) != len(reasons) or not all(reason.strip() for reason in reasons):
        counts = f"{len(expressions)} --exclude, {len(reasons)} --reason"
        text = "each --exclude EXPRESSION needs a --reason TEXT of its own, which is recorded"
        raise UsageError(f"{text} ({counts})")
    pairs = zip(expressions, reasons, strict=True)
    return tuple(Exclusion(expression=e, reason=" ".join(r.split())) for e, r in pairs)


def without_excluded(plan: Plan, exclusions: Iterable[Exclusion]) -> Plan:
    """Return the plan with the excluded cases refused; a case gets the first reason that fits.

    Raises UsageError for an expression that cannot be read, or that matches no case: it would
    outlive what it was written for.
    """
    reasons: dict[str, Reason] = {}
    for exclusion in exclusions:
        matches = matcher(exclusion.expression, "--exclude")
        excluded = list(filter(matches, plan.cases.ids()))
        if not (excluded or any(map(matches, plan.refused.cases.ids()))):
            text = f"--exclude {exclusion.expression!r} matches no case"
            raise UsageError(f"{text}; correct it, or leave it out")
        reason = Reason(code=EXCLUDED, text=exclusion.reason)
        reasons = dict.fromkeys(excluded, reason) | reasons
    return plan.refusing(reasons)


def excluded_before(plan: Plan, refused: Iterable[RefusedCase]) -> Plan:
    """Return the plan of a run that goes on, with the cases refused that it excluded at first."""
    excluded = (point for point in refused if point.code == EXCLUDED)
    return plan.refusing({p.case: Reason(code=EXCLUDED, text=p.text) for p in excluded})
