"""Check that repeating a call gives the same bits, if every member claims to be deterministic.

The layer is called once more with the first call's tokens: only then is a buffer that a member
caches per size used again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks import aliasing
from harness.checks.bits import differing_elements
from harness.checks.check import Check, Observation
from harness.checks.output_rows import judge_call
from harness.fixtures.layer_under_test import row_under_test
from harness.fixtures.run_calls import changed_inputs, copied
from harness.fixtures.undefined_rows import judged_output
from harness.record.result import NOT_THE_SAME, Finding, Verdict
from moe import guarded_buffers
from moe.all2all import ALL2ALL
from moe.kernels.launch_observer import observed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from torch import Tensor

    from harness.fixtures.layer_call import Call
    from harness.fixtures.layer_under_test import Subject
    from harness.matrix.case import MoETestConfig


def is_claimed(case: MoETestConfig) -> bool:
    """Tell whether the experts' and the all2all's row both claim `deterministic`."""
    return row_under_test(case).deterministic and ALL2ALL.row(case.all2all).deterministic


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Repeat the first call and report what differs. Collective."""
    texts = messages(observation.subject, observation.calls)
    return tuple(Finding(check=CHECK.name, text=text) for text in texts)


def messages(subject: Subject, calls: Sequence[Call]) -> Iterator[str]:
    """Repeat the first call and yield messages. Collective.

    Compare bits if determinism is claimed; otherwise require an output that is still correct.
    Check that the layer changes no inputs and reuses no earlier output.
    """
    first = calls[0]
    inputs = copied(first.inputs)
    subject.go_back_to(first.placement)
    with guarded_buffers.poisoned(), observed() as launched:
        returned = subject.call(inputs.x, inputs.logits, inputs).out
        repeated = judged_output(first.tokens, returned)
        violations = guarded_buffers.broken_guards() + changed_inputs(inputs, first.inputs)
    if not any(call.broken for call in calls):
        yield from (f"memory: {line}, when the first call is repeated" for line in violations)
    aliased = aliasing.aliased_output(calls, returned)
    if aliased is not None:
        yield aliased
    if is_claimed(subject.case):
        text = difference(first.output.out, repeated)
    else:
        text = _newly_wrong(first, repeated)
    if text is not None and text.startswith(NOT_THE_SAME):
        is_wrong = judge_call(first).verdict is Verdict.FAILED
        yield other_path(text, names_of(first.launched), names_of(launched), is_wrong=is_wrong)
    elif text is not None:
        yield text


def names_of(launched: Iterable[str]) -> set[str]:
    """Return the names of launched kernels, without their specialisations."""
    return {line.partition("(")[0] for line in launched}


def other_path(text: str, recorded: set[str], repeated: set[str], *, is_wrong: bool) -> str:
    """Return the message if the repeated call, which records no stage, launches other kernels.

    Then it is no wonder that bits differ, and the kernels of one of both paths are wrong. is_wrong:
    whether the recorded call is, whose first wrong stage may be common to both paths.
    """
    only, missing = sorted(repeated - recorded), sorted(recorded - repeated)
    if not only:
        return text
    instead = f" in place of {', '.join(missing)}" if missing else ""
    what = text.removeprefix(f"{NOT_THE_SAME}: ").partition("; ")[0]
    advice = (
        "the recorded call is wrong, too, so look at that first"
        if is_wrong
        else ("both must give the same, so look there first")
    )
    return (
        f"another path: {what}; it records no stages, and only then "
        f"{', '.join(only)} is launched{instead}: {advice}"
    )


def _newly_wrong(first: Call, repeated: Tensor) -> str | None:
    """Return a message if only the repeated output is wrong; else None."""
    if not bool(first.answer.out.isfinite().all()):
        return None
    first_judgement, judgement = (judge_call(first, out) for out in (first.output.out, repeated))
    if first_judgement.verdict is Verdict.FAILED or judgement.verdict is not Verdict.FAILED:
        return None
    return f"correct at first, wrong when the same call is repeated: {judgement.messages[0]}"


def difference(first: Tensor, repeated: Tensor) -> str | None:
    """Return a message if two outputs [T, K] differ in any bit, shape or dtype; else None."""
    if first.shape != repeated.shape or first.dtype != repeated.dtype:
        before, after = (f"{list(t.shape)} {t.dtype}" for t in (first, repeated))
        return f"{NOT_THE_SAME}: the output was {before} and is {after} when repeated"
    text = differing_elements(first, repeated, "when the same call is repeated")
    if text is None:
        return None
    return f"{NOT_THE_SAME}: {text}; its members' rows claim the same bits (`deterministic`)"


CHECK = Check(name="determinism", run=findings, collective=True, by_reference=False, phase="repeat")
