"""Call the layer once as its users do: no buffer poisoned, no stage recorded, nothing in between.

The calls that are judged in detail run with poisoned buffers and recorded stages, which changes
allocations and adds copies. A fault that this hides, such as a missing synchronisation, shows here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks.check import Check, Observation
from harness.checks.determinism import difference, is_claimed
from harness.checks.output_rows import judge_call
from harness.fixtures.run_calls import copied
from harness.fixtures.undefined_rows import judged_output
from harness.record.result import Finding, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

OPTION = "plain_call"  # of a rank: whether cases have this call
_WHAT = "a plain call, unpoisoned and unrecorded,"
_AGAIN = "; to repeat it: --plain-call"


def is_wanted(observation: Observation) -> bool:
    """Tell whether the run asks for this call."""
    return bool(observation.context.options.get(OPTION))


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Call the layer with the first call's tokens and report what is wrong. Collective."""
    return tuple(Finding(check=CHECK.name, text=text) for text in _texts(observation))


def _texts(observation: Observation) -> Iterator[str]:
    """Yield a message if bits differ that must not, or if only this output is wrong."""
    first = observation.calls[0]
    inputs = copied(first.inputs)
    observation.subject.go_back_to(first.placement)
    returned = observation.subject.call(inputs.x, inputs.logits, inputs).out
    out = judged_output(first.tokens, returned)
    if observation.has_failed(first) or not bool(first.answer.out.isfinite().all()):
        return
    if is_claimed(observation.subject.case):
        text = difference(first.output.out, out)
        if text is not None:
            yield f"{_WHAT} differs from the first: {text}{_AGAIN}"
        return
    judgement = judge_call(first, out)
    if judgement.verdict is Verdict.FAILED:
        yield f"wrong only in {_WHAT} {judgement.messages[0]}{_AGAIN}"


CHECK = Check(
    name="plain_call",
    run=findings,
    of_case=is_wanted,
    collective=True,
    by_reference=False,
    phase="repeat",
)
