"""Check that the output does not depend on which rank is late, in cases whose axis `skew` delays.

The first call is repeated with nobody late, then once for each rank: bit for bit where the rows
claim to be deterministic, otherwise still within the tolerance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks.check import Check, Observation
from harness.checks.determinism import difference, is_claimed
from harness.checks.output_rows import judge_call
from harness.fixtures.run_calls import copied
from harness.fixtures.undefined_rows import judged_output
from harness.matrix.skews import NO_SKEW
from harness.record.result import Finding, Verdict

if TYPE_CHECKING:
    from torch import Tensor


def is_skewed(observation: Observation) -> bool:
    """Tell whether ranks are late in this case."""
    return observation.subject.case.skew != NO_SKEW


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Repeat the first call with each rank late in turn and report the first change. Collective."""
    with observation.subject.watch.in_time():
        in_time = _message(observation, _repeated(observation), "no rank is late")
    texts = [in_time]
    for _ in range(observation.context.world_size):
        late = observation.subject.watch.next_late
        texts.append(_message(observation, _repeated(observation), f"rank {late} is late"))
    return tuple(Finding(check=CHECK.name, text=text) for text in texts if text)[:1]


def _repeated(observation: Observation) -> Tensor:
    """Return the output of the first call's tokens. Collective."""
    first = observation.calls[0]
    inputs = copied(first.inputs)
    return judged_output(
        first.tokens, observation.subject.call(inputs.x, inputs.logits, inputs).out
    )


def _message(observation: Observation, out: Tensor, when: str) -> str | None:
    """Return what is wrong with an output; None if nothing is, or if the first was wrong, too."""
    first = observation.calls[0]
    if observation.has_failed(first) or not bool(first.answer.out.isfinite().all()):
        return None
    if is_claimed(observation.subject.case):
        text = difference(first.output.out, out)
        return None if text is None else f"the output changes when {when}: {text}"
    judgement = judge_call(first, out)
    failed = judgement.verdict is Verdict.FAILED
    return f"wrong only when {when}: {judgement.messages[0]}" if failed else None


CHECK = Check(
    name="skew",
    run=findings,
    of_case=is_skewed,
    collective=True,
    by_reference=False,
    phase="repeat",
)
