"""Whether the same call gives the same bits again, where every member says so.

The case is called once more with the first call's tokens: a buffer that a member keeps for each
size is met again only then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks import aliasing
from harness.checks.bits import bits_of
from harness.checks.check import Check, Observation
from harness.checks.output import judge
from harness.fixtures.layer_under_test import row_under_test
from harness.fixtures.run_calls import changed_inputs
from harness.record.result import Finding, Verdict
from moe import guarded_buffers
from moe.all2all import ALL2ALL

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from harness.fixtures.layer_call import Call
    from harness.fixtures.layer_under_test import Subject
    from harness.matrix.case import MoETestConfig


def is_claimed(case: MoETestConfig) -> bool:
    """Whether all members of the case that compute or move tokens say so in their rows."""
    return row_under_test(case).deterministic and ALL2ALL.row(case.all2all).deterministic


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Collective. Repeat the first call."""
    texts = complaints(observation.subject, observation.calls)
    return tuple(Finding(check=CHECK.name, text=text) for text in texts)


def complaints(subject: Subject, calls: Sequence[Call]) -> Iterator[str]:
    """Collective: the first call again.

    Its bits are compared where determinism is claimed; elsewhere it must be as right as it was.
    And this last call must have left alone what is its caller's, as those before it.
    """
    first = calls[0]
    x, logits = first.tokens.x.clone(), first.tokens.logits.clone()
    with guarded_buffers.poisoned():
        again = subject.call(x, logits).out
        broken = guarded_buffers.broken_guards() + changed_inputs((x, logits), first.tokens)
    if not any(call.broken for call in calls):
        yield from (f"memory: {line}, when the first call is repeated" for line in broken)
    lost = aliasing.lost_output(calls, again)
    if lost is not None:
        yield lost
    claimed = is_claimed(subject.case)
    found = difference(first.output.out, again) if claimed else _no_longer_right(first, again)
    if found is not None:
        yield found


def _no_longer_right(first: Call, again: Tensor) -> str | None:
    """What only a later call shows; where the first was wrong itself, that is told elsewhere."""
    if not bool(first.answer.out.isfinite().all()):
        return None
    before, now = (judge(out, first.answer) for out in (first.output.out, again))
    if before.verdict is Verdict.FAILED or now.verdict is not Verdict.FAILED:
        return None
    return f"right at first, wrong when the same call is repeated: {now.messages[0]}"


def difference(first: Tensor, again: Tensor) -> str | None:
    """[T, K] twice. Equal are equal bits: NaN equals the same NaN, and 0 is not -0."""
    if first.shape != again.shape or first.dtype != again.dtype:
        was, now = (f"{list(t.shape)} {t.dtype}" for t in (first, again))
        return f"not deterministic: the output was {was} and is {now} when repeated"
    other = (bits_of(first) != bits_of(again)).nonzero()
    if len(other) == 0:
        return None
    row, column = (int(i) for i in other[0])
    values = float(first[row, column]), float(again[row, column])
    return (
        f"not deterministic: {len(other)} of {first.numel()} elements differ when the same call is "
        f"repeated, first [{row}, {column}]: {values[0]:.9g}, then {values[1]:.9g}; its members' "
        "rows claim the same bits (`deterministic`)"
    )


CHECK = Check(name="determinism", run=findings, collective=True, phase="repeat")
