"""Check a second layer of the process, with other weights, and the first one after it.

A model has many layers of the same sizes. What a member keeps for the process, by name or by size
(converted weights, a workspace, the newest layer's pointers), is right while there is one layer.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from harness.checks.alternatives import under
from harness.checks.check import Check, Observation
from harness.checks.determinism import difference, is_claimed
from harness.checks.output_rows import judge_call
from harness.fixtures.call_sizes import FEW
from harness.fixtures.layer_under_test import make_subject
from harness.fixtures.phase_timer import Clock
from harness.fixtures.run_calls import copied, run_call
from harness.fixtures.undefined_rows import judged_output
from harness.matrix.call_modes import EAGER
from harness.matrix.case import MADE
from harness.record.result import Finding, Verdict
from moe.eplb import NO_BALANCING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.matrix.case import MoETestConfig

MOST_WEIGHTS = 1 << 24  # of the second layer, which the memory plan does not count


def is_cheap(case: MoETestConfig) -> bool:
    """Tell whether a second layer costs little: few tokens, one rank, few weights, no graph."""
    weights = 3 * case.num_experts * case.n * case.k
    is_small = case.m <= FEW and case.world_size == 1 and weights <= MOST_WEIGHTS
    is_plain = case.call == EAGER and case.eplb == NO_BALANCING and case.trace == MADE
    return is_small and is_plain


def applies(observation: Observation) -> bool:
    """Apply to cheap cases whose outputs are right: else the first layer is to be mended."""
    is_right = all(finding.verdict is Verdict.PASSED for finding in observation.findings)
    return is_right and is_cheap(observation.subject.case)


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Judge a call of a second layer, then repeat the first layer's first call."""
    texts = (*_second(observation), *_first_again(observation))
    return tuple(Finding(check=CHECK.name, text=text) for text in texts)


def _second(observation: Observation) -> Iterator[str]:
    """Call a layer with the weights and tokens of another seed; yield what is wrong."""
    case, context = observation.subject.case, observation.context
    subject = make_subject(case.replace(seed=case.seed + 1), context)
    call = run_call(subject, context, Clock(context=context), 0)
    alternatives = subject.candidates.alternatives
    number = alternatives.index(observation.subject.reference.numerics)
    if number:
        second = dataclasses.replace(observation, subject=subject, calls=(call,))
        (call,) = under(second, number).calls
    judgement = judge_call(call)
    if judgement.verdict is Verdict.FAILED:
        yield (
            "wrong only in a second layer of the same sizes, with other weights: "
            f"{judgement.messages[0]}; keep weights and buffers in the layer, not in its class "
            "or module"
        )


def _first_again(observation: Observation) -> Iterator[str]:
    """Repeat the first call of the first layer; yield what the second layer changed."""
    first, subject = observation.calls[0], observation.subject
    inputs = copied(first.inputs)
    out = judged_output(first.tokens, subject.call(inputs.x, inputs.logits, inputs).out)
    if is_claimed(subject.case):
        text = difference(first.output.out, out)
    else:
        judgement = judge_call(first, out)
        text = judgement.messages[0] if judgement.verdict is Verdict.FAILED else None
    if text is not None:
        yield (
            f"another output since a second layer was made: {text}; keep weights and buffers in "
            "the layer, not in its class or module"
        )


CHECK = Check(name="second_layer", run=findings, applies=applies, phase="repeat")
