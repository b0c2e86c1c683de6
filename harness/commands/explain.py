"""Run `explain`: show which experts backend a case gets, and why no other one. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.errors import ExitCode
from harness.matrix.case import MoETestConfig
from harness.plan import machine
from harness.plan.refusals import Judge
from moe.layers import COMPOSED
from moe.oracle import ABSENT, AUTO, DECLARED, INSTALLED

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from harness.plan.machine import Machine
    from moe.oracle import Explanation
    from moe.spec import Reason

_PACKAGES = {
    INSTALLED: "as installed here",
    DECLARED: "those that rows need count as installed",
    ABSENT: "none but Triton counts as installed",
}


def show_choice(args: argparse.Namespace) -> int:
    """Print the choice as a table; return 4 if the case itself is refused."""
    case = MoETestConfig.from_id(args.case)
    chosen_for = machine.planned_for(args.platform) if args.platform else machine.detect()
    case_as_run, reason = Judge(chosen_for)(case)
    print("\n".join(lines(case, chosen_for, case_as_run, reason)))
    return ExitCode.NOTHING_SELECTED if reason else ExitCode.PASSED


def lines(
    case: MoETestConfig, chosen_for: Machine, case_as_run: MoETestConfig, reason: Reason | None
) -> Iterator[str]:
    """Yield the environment, the case's own verdict, and the answer of every backend."""
    packages_are = DECLARED if chosen_for.planned else INSTALLED
    judge, chip = Judge(chosen_for), chosen_for.platform
    explanation = judge.explain(case, packages_are)
    yield f"case      {case.id}"
    yield f"platform  {chip.name} ({', '.join(sorted(chip.features))})"
    versions = (f"{name} {number}" for name, number in explanation.versions.items())
    yield f"versions  {', '.join(versions)}"
    yield f"packages  {_PACKAGES[packages_are]}"
    yield f"order     {explanation.order}"
    if reason is not None:
        yield f"verdict   refused: {reason.code}: {reason.text}"
    else:
        yield f"verdict   runs with experts:{_chosen(case, case_as_run, explanation)}"
    if case.layer != COMPOSED:
        return
    yield f"auto      {explanation.winner or 'no backend'}{_without(judge, case, explanation)}"
    yield ""
    yield from _table(explanation)


def _chosen(case: MoETestConfig, case_as_run: MoETestConfig, explanation: Explanation) -> str:
    """Return the backend of the case; a plan for another chip counts the packages of this one."""
    planned = case_as_run.experts
    if case.experts != AUTO or explanation.winner in (None, planned):
        return planned
    return f"{explanation.winner}; `plan` takes {planned}, by the packages that are installed here"


def _without(judge: Judge, case: MoETestConfig, explanation: Explanation) -> str:
    """Return what would be chosen without optional packages, if that is another backend."""
    other = judge.explain(case.replace(experts=AUTO), ABSENT).winner
    return "" if other == explanation.winner else f"; without optional packages {other}"


def _table(explanation: Explanation) -> Iterator[str]:
    """Yield one line for each backend, in the order of trying."""
    width = max(len(name) for name, _ in explanation.answers)
    codes = max((len(r.code) for _, r in explanation.answers if r), default=0)
    yield f"{'experts':<{width}}  {'answer':<6}  {'code':<{codes}}  reason"
    for name, reason in explanation.answers:
        if reason is not None:
            text = reason.text.removeprefix(f"{name}: ")
            yield f"{name:<{width}}  {'no':<6}  {reason.code:<{codes}}  {text}"
        else:
            yield f"{name:<{width}}  {'chosen' if name == explanation.winner else 'yes'}"
