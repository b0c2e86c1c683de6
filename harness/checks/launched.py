"""Check that the kernels ran which the experts backend is about.

A backend that falls back to something else, a slow equivalent in torch, say, gives the right
numbers, and its kernels were not tested. The row names what must be launched (`launches`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks.check import Check, Observation, call_prefix
from harness.matrix.call_modes import AOT_EAGER, COMPILE, GRAPH
from harness.record.result import Finding
from moe.experts import EXPERTS
from moe.layers import COMPOSED

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from harness.fixtures.layer_call import Call

# Modes in which a later call can replay what an earlier one launched.
_ONCE = frozenset({GRAPH, AOT_EAGER, COMPILE})


def applies(observation: Observation) -> bool:
    """Return whether the row of the case's experts names kernels."""
    case = observation.subject.case
    return case.layer == COMPOSED and bool(EXPERTS.row(case.experts).launches)


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Report calls whose rows reached this rank's experts without launching what the row names."""
    case = observation.subject.case
    row = EXPERTS.row(case.experts)
    calls = [call for call in observation.calls if _has_rows(call)]
    groups = [calls] if case.call in _ONCE and calls else [[call] for call in calls]
    return tuple(
        Finding(check=CHECK.name, call=group[0].number, text=text, leads=True)
        for group in groups
        if (text := _text(row.name, row.launches, group))
    )


def _has_rows(call: Call) -> bool:
    """Return whether a token of the call has an expert on this rank."""
    ids = call.stages.get("ids")
    return ids is not None and bool((ids.value >= 0).any())


def _text(name: str, wanted: Collection[str], calls: Sequence[Call]) -> str:
    """Return what is wrong, or ""."""
    launched = {line.partition("(")[0] for call in calls for line in call.launched}
    missing = sorted(set(wanted) - launched)
    if not missing:
        return ""
    launches = f"only {', '.join(sorted(launched))}" if launched else "no Triton kernel"
    return (
        f"{call_prefix(calls[0])}experts: {name} must launch {', '.join(missing)}, and the call "
        f"launched {launches}: something else computed the output, so that the kernels were not "
        "tested; call the kernels, or leave them out of `launches` of the row"
    )


CHECK = Check(name="launched", run=findings, applies=applies, by_reference=False)
