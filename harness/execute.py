"""One case on one rank: make inputs, run the layer, work out the truth, judge.

Collective: every rank of the gang runs the same case. The layer is called twice with different
numbers of tokens (more often where a call has few), its buffers poisoned, and all outputs are
judged, stages of the first two as well. A fault on one rank is that rank's result, the others' are
their own.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from harness.checks import (
    determinism,
    pooled_calls,
    quantization_applied,
    sketches,
    stages,
    tp_replicas,
)
from harness.checks.output import Judgement, judge
from harness.diagnosis.diagnose import diagnose
from harness.fixtures import run_calls, saved_tensors
from harness.fixtures.layer_under_test import Subject, make_subject
from harness.fixtures.phase_timer import Clock
from harness.mutants.sample import scene_of
from harness.mutants.self_check import prove
from harness.record.result import SEVERITY, RankResult, Verdict
from moe.all2all import ALL2ALL
from moe.experts import EXPERTS
from moe.quant import QUANT
from moe.reference import routing as true_routing
from moe.types import TORCH_DTYPE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.checks.stage_bound import StageFinding
    from harness.fixtures.layer_call import Call
    from harness.fixtures.rank_context import RankContext
    from harness.matrix.case import MoETestConfig


def run_case(case: MoETestConfig, context: RankContext) -> RankResult:
    """Collective. Exceptions of the stack under test pass through: the worker reports them."""
    clock = Clock(context=context)
    with torch.inference_mode():
        with clock.phase("inputs"):
            subject = make_subject(case, context)
        calls = run_calls.run_calls(subject, context, clock)
        with clock.phase("judge"):
            judged = [_judge(subject, call) for call in calls]
        judged[0] = _failed_by(judged[0], *_other_members(subject))
        judged[0] = _failed_by(judged[0], tp_replicas.complaint(subject, calls[0].output.out))
        with clock.phase("repeat"):
            judged[0] = _failed_by(judged[0], *determinism.complaints(subject, calls))
        with clock.phase("projection"):
            shares = quantization_applied.shares(subject, calls[:1])
            judged[0] = _failed_by(judged[0], quantization_applied.complaint(shares))
        with clock.phase("stages"):
            findings = _stages(subject, context, calls, judged)
        if all(j.verdict is not Verdict.FAILED for j in judged):
            judged[-1] = _failed_by(judged[-1], pooled_calls.complaint(calls))
        told = 1 if findings[1] else 0
        judged[told] = _failed_by(judged[told], *map(str, findings[told]))
        with clock.phase("battery"):
            battery = _battery(subject, context.rank, calls[0], judged[0])
        with clock.phase("diagnosis"):
            diagnosis = diagnose(subject, context, calls, judged, findings)
        sketched = sketches.sketches(subject, calls[0])
        saved_tensors.tensors(context, case, calls[0])
    found = _result(context.rank, judged, clock, subject, sketched)
    return dataclasses.replace(found, battery=battery, diagnosis=diagnosis)


def _failed_by(judgement: Judgement, *complaints: str | None) -> Judgement:
    """The judgement, failed where there is a complaint."""
    texts = tuple(text for text in complaints if text is not None)
    if not texts:
        return judgement
    messages = (*judgement.messages, *texts)
    return dataclasses.replace(judgement, verdict=Verdict.FAILED, messages=messages)


def _stages(
    subject: Subject, context: RankContext, calls: list[Call], judged: list[Judgement]
) -> list[tuple[StageFinding, ...]]:
    """Of each call: the second's, between ranks, too; inside the experts the first's as well.

    What both have is told of the second, the smaller one. A failed one's are looked at on all rows.
    """
    found: list[tuple[StageFinding, ...]] = [()] * len(calls)
    found[1] = stages.check(subject, calls[1], context)
    if not found[1]:
        found[0] = stages.inside(subject, calls[0], context, every=False)
    for number, (call, judgement) in enumerate(zip(calls, judged, strict=True)):
        if judgement.verdict is Verdict.FAILED and not found[number]:
            found[number] = stages.inside(subject, call, context, every=True)
    return found


def _judge(subject: Subject, call: Call) -> Judgement:
    """Routing first, as a stage of its own; then the output; then the buffers' edges."""
    routing = true_routing.complaints(
        call.tokens.logits,
        call.output.routing.topk_ids,
        call.output.routing.topk_weights,
        renormalize=subject.case.renormalize,
    )
    if routing and not call.answer.out.isfinite().all():  # no truth on weights that are NaN
        found = Judgement(verdict=Verdict.FAILED)
    else:
        found = judge(call.output.out, call.answer)
    memory_faults = (f"memory: {line}" for line in call.broken)
    extra = (*routing, *_wrong_dtype(subject.case, call), *memory_faults)
    if not extra and found.verdict is Verdict.PASSED:
        return found
    name = "second call" if call.number == 1 else f"call {call.number + 1}"
    where = f"{name} with {len(call.tokens.x)} tokens: " if call.number else ""
    verdict = Verdict.FAILED if extra else found.verdict
    messages = tuple(where + text for text in (*extra, *found.messages))
    return Judgement(verdict=verdict, messages=messages, metrics=found.metrics)


def _wrong_dtype(case: MoETestConfig, call: Call) -> tuple[str, ...]:
    got, wanted = call.output.out.dtype, TORCH_DTYPE[case.dtype]
    return () if got == wanted else (f"output: dtype {got}, the layer's is {wanted}",)


def _other_members(subject: Subject) -> Iterator[str]:
    """A right output says nothing of a member that did not make it."""
    case, ran = subject.case, subject.layer.members
    for family, table in (("experts", EXPERTS), ("all2all", ALL2ALL), ("quant", QUANT)):
        asked = getattr(case, family)
        wanted = table.row(asked).target.rpartition(":")[2]
        if ran[family] != wanted:
            yield f"{family}: asked for {asked} ({wanted}), and {ran[family]} ran"


def _battery(subject: Subject, rank: int, call: Call, judgement: Judgement) -> dict[str, str]:
    """Would the check have rejected wrong answers here? Only a right one raises the question."""
    if judgement.verdict is not Verdict.PASSED:
        return {}
    return prove(scene_of(subject.case, rank, call, subject.reference))


def _result(
    rank: int,
    judged: list[Judgement],
    clock: Clock,
    subject: Subject,
    sketched: tuple[dict[str, Any], ...],
) -> RankResult:
    metrics: dict[str, float] = {}
    for judgement in judged[:2]:  # whose sizes are the case's own
        for name, value in judgement.metrics.items():
            metrics[name] = max(metrics.get(name, value), value)
    return RankResult(
        rank=rank,
        verdict=min((j.verdict for j in judged), key=SEVERITY.index),
        messages=tuple(text for j in judged for text in j.messages),
        metrics=metrics,
        seconds=clock.seconds,
        members=subject.layer.members,
        sketches=sketched,
    )
