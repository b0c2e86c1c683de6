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
    aliasing,
    determinism,
    pooled_calls,
    quantization_applied,
    stages,
    tp_replicas,
)
from harness.checks.output import Judgement, bound, judge
from harness.diagnosis.diagnose import diagnose
from harness.fixtures import exact_tensors, saved_tensors, tensors
from harness.fixtures.layer_call import Call, chosen_rows, rows_of
from harness.fixtures.layer_under_test import Subject, make_subject, own_tokens
from harness.fixtures.phase_timer import Clock
from harness.mutants.sample import scene_of
from harness.mutants.self_check import prove
from harness.record import cross_case
from harness.record.result import SEVERITY, RankResult, Verdict
from moe import families, guarded_buffers, intermediates, layer
from moe.formats import FORMATS
from moe.reference import routing as true_routing
from moe.types import TORCH_DTYPE, Routing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.checks.stage_bound import StageFinding
    from harness.fixtures.rank_context import RankContext
    from harness.matrix.case import MoETestConfig
    from moe.reference.result import Answer


SKETCHED_ROWS = 2  # of each rank's first call, for the comparison across layouts


def run_case(case: MoETestConfig, context: RankContext) -> RankResult:
    """Collective. Exceptions of the stack under test pass through: the worker reports them."""
    clock = Clock(context=context)
    with torch.inference_mode():
        with clock.phase("inputs"):
            subject = make_subject(case, context)
        calls = [run_call(subject, context, clock, n) for n in range(len(_sizes(case)))]
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
        sketches = _sketches(subject, calls[0])
        saved_tensors.tensors(context, case, calls[0])
    found = _result(context.rank, judged, clock, subject, sketches)
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


def run_call(subject: Subject, context: RankContext, clock: Clock, number: int) -> Call:
    """Run the layer once, poisoned and recorded, and work out the truth for its tokens."""
    counts = _sizes(subject.case)[number]
    with clock.phase("inputs"):
        start = _start(subject.case, number)
        mine = own_tokens(subject.case, context, counts, start)
    with guarded_buffers.poisoned(), intermediates.recording() as kept:
        given = mine.x.clone(), mine.logits.clone()  # the truth must not see what changes them
        with clock.phase("layer"):
            output = subject.layer.forward(*given)
        routing, changed = _chosen(output, kept)
        out = output.out.clone()  # a later call must not change what is judged
        broken = guarded_buffers.broken_guards() + aliasing.changed_inputs(given, mine)
    judged = layer.Output(out=out, routing=routing)
    with clock.phase("reference"):
        answer = _answer(subject, mine, judged, number, context)
        answer = exact_tensors.settled(subject.case, answer)
    return Call(
        number=number,
        counts=counts,
        start=start,
        tokens=mine,
        output=judged,
        given=output.out,
        answer=answer,
        stages=kept,
        broken=(*broken, *changed),
    )


def _chosen(output: layer.Output, kept: dict[str, intermediates.Kept]) -> tuple[Routing, list[str]]:
    """The routing as it was chosen: where nothing is exchanged, the experts hold its tensors."""
    routing, router = output.routing, kept.get("router")
    weights = routing.topk_weights if router is None else router.value
    if torch.equal(weights, routing.topk_weights) or bool(weights.isnan().any()):
        return routing, []
    changed = "the layer changed the router weights after it had chosen them"
    return dataclasses.replace(routing, topk_weights=weights), [changed]


def call_counts(case: MoETestConfig) -> tuple[tuple[int, ...], ...]:
    """Tokens of each DP rank in the first call and in the second, which has another size."""
    first = case.counts
    second = tuple(c // 2 + 1 if c > 1 else 2 * c for c in first)
    return first, second


def _sizes(case: MoETestConfig) -> tuple[tuple[int, ...], ...]:
    """Tokens of each DP rank in every call."""
    return (*call_counts(case), *pooled_calls.further_counts(case))


def _start(case: MoETestConfig, number: int) -> int:
    """Of each DP rank's tokens in this call: no two calls have the same."""
    return number * case.m if number < 2 else pooled_calls.start_of(number)


def _answer(
    subject: Subject,
    mine: tensors.Tokens,
    output: layer.Output,
    number: int,
    context: RankContext,
) -> Answer:
    """The reference for this rank's tokens, on the routing that the layer itself chose.

    A dynamic per-tensor scale depends on all tokens together, so all are computed then; the
    other ranks' routing is the reference's own.
    """
    fmt = FORMATS[subject.case.problem.scheme.activations]
    ids, weights = output.routing.topk_ids, output.routing.topk_weights
    keep = chosen_rows(len(mine.x), context.device)
    if not fmt.has_one_scale or fmt.static:
        return subject.reference(mine.x, ids, weights, keep=keep, **subject.scales)
    counts, start = _sizes(subject.case)[number], _start(subject.case, number)
    everyone = [
        tensors.tokens(subject.case, d, count, context.device, start)
        for d, count in enumerate(counts)
    ]
    x = torch.cat([t.x for t in everyone])
    logits = torch.cat([t.logits for t in everyone])
    index = torch.cat([t.index for t in everyone])
    router, renormalize = subject.case.router, subject.case.renormalize
    ids = true_routing.choose(logits, subject.case.top_k, router)
    weights = true_routing.weights(logits, ids, renormalize=renormalize, router=router)
    own = torch.isin(index, mine.index).nonzero().flatten()
    answer = subject.reference(x, ids, weights, keep=own[keep], **subject.scales)
    return rows_of(answer, own, slice(None))


def _judge(subject: Subject, call: Call) -> Judgement:
    """Routing first, as a stage of its own; then the output; then the buffers' edges."""
    routing = true_routing.complaints(
        call.tokens.logits,
        call.output.routing.topk_ids,
        call.output.routing.topk_weights,
        renormalize=subject.case.renormalize,
        router=subject.case.router,
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
    for family, table in families.tables(families.MEMBERS):
        asked = getattr(case, family)
        wanted = table.row(asked).target.rpartition(":")[2]
        if ran[family] != wanted:
            yield f"{family}: asked for {asked} ({wanted}), and {ran[family]} ran"


def _battery(subject: Subject, rank: int, call: Call, judgement: Judgement) -> dict[str, str]:
    """Would the check have rejected wrong answers here? Only a right one raises the question."""
    if judgement.verdict is not Verdict.PASSED:
        return {}
    return prove(scene_of(subject.case, rank, call, subject.reference))


def _sketches(subject: Subject, call: Call) -> tuple[dict[str, Any], ...]:
    """This rank's first rows, compressed by random signs, with what may explain a difference."""
    rows, mine, routing = slice(0, SKETCHED_ROWS), call.tokens, call.output.routing
    if len(mine.x) == 0:
        return ()
    ideal = subject.ideal(mine.x[rows], routing.topk_ids[rows], routing.topk_weights[rows]).out
    right = call.answer.out[rows]
    slack = bound(call.answer)[rows] + (right - ideal).norm(dim=1) + right.norm(dim=1) * 2.0**-20
    numbers = torch.arange(cross_case.WIDTH, device=mine.x.device)
    hashed = tensors.bits(0, "sketch", numbers, mine.x.shape[1])
    signs = torch.where(hashed < 0, -1.0, 1.0) / cross_case.WIDTH**0.5
    values = (call.output.out[rows].float() @ signs.T).tolist()
    pairs = zip(mine.index[rows].tolist(), values, slack.tolist(), strict=True)
    found = (cross_case.Sketch(token=t, values=tuple(v), slack=s) for t, v, s in pairs)
    return tuple(sketch.to_json() for sketch in found)


def _result(
    rank: int,
    judged: list[Judgement],
    clock: Clock,
    subject: Subject,
    sketches: tuple[dict[str, Any], ...],
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
        sketches=sketches,
    )
