"""One case on one rank: make inputs, run the layer, work out the truth, judge.

Collective: every rank of the gang runs the same case. The layer is called twice with different
numbers of tokens, its buffers poisoned, and both outputs are judged; a fault on one rank is that
rank's result, the others' are their own.
"""

from __future__ import annotations

import dataclasses
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from harness import agree, inputs, keep
from harness.cache import cached
from harness.compare import Judgement, bound, judge
from harness.result import SEVERITY, RankResult, Verdict
from moe import layer, memory
from moe.experts import EXPERTS
from moe.parallel import ALONE, Groups, make_groups
from moe.quant import QUANT
from moe.reference import routing as true_routing
from moe.reference.layer import Answer, BaselineSiluAndMul
from moe.shared import shard_shared
from moe.spec import FORMATS, Numerics, Scheme

if TYPE_CHECKING:
    from moe.types import ExpertWeights
    from collections.abc import Iterator

    from torch import Tensor

    from harness.case import MoETestConfig
    from harness.context import RankContext

IDEAL = Numerics(accumulation=0.0)
SKETCHED_ROWS = 2  # of each rank's first call, for the comparison across layouts


@dataclass
class _Clock:
    """Seconds by phase of one case."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a case is about on this rank; made once, called twice."""

    case: MoETestConfig
    layer: layer.FusedMoE
    reference: BaselineSiluAndMul
    scales: dict[str, Tensor | None]  # a1_scale, a2_scale of static schemes
    ideal: BaselineSiluAndMul


def run_case(case: MoETestConfig, context: RankContext) -> RankResult:
    """Collective. Exceptions of the stack under test pass through: the worker reports them."""
    clock = _Clock(device=context.device)
    with torch.inference_mode():
        with clock.phase("inputs"):
            subject = _subject(case, context)
        judged = []
        sketches: tuple[dict[str, Any], ...] = ()
        for number, counts in enumerate(call_counts(case)):
            with memory.poisoned():
                with clock.phase("inputs"):
                    mine = _own_tokens(case, context, counts)
                with clock.phase("layer"):
                    output = subject.layer.forward(mine.x, mine.logits)
                broken = memory.broken_guards()
            with clock.phase("reference"):
                answer = _answer(subject, mine, output, counts, context)
            with clock.phase("judge"):
                judged.append(_judge(number, subject, mine, output, answer, broken))
            if number == 0:
                sketches = _sketches(subject, mine, output, answer)
                keep.tensors(context, case, mine, output, answer)
    return _result(context.rank, judged, clock, subject, sketches)


def call_counts(case: MoETestConfig) -> tuple[tuple[int, ...], ...]:
    """Tokens of each DP rank in the first call and in the second, which has another size."""
    first = case.counts
    second = tuple(c // 2 + 1 if c > 1 else 2 * c for c in first)
    return first, second


def _own_tokens(
    case: MoETestConfig, context: RankContext, counts: tuple[int, ...]
) -> inputs.Tokens:
    dp_rank = case.layout.dp_rank(context.rank)
    mine = case.layout.tokens_of(context.rank, counts)
    whole = inputs.tokens(case, dp_rank, counts[dp_rank], context.device)
    part = slice(mine.start, mine.stop)
    return inputs.Tokens(x=whole.x[part], logits=whole.logits[part], index=whole.index[part])


def _subject(case: MoETestConfig, context: RankContext) -> Subject:
    problem = case.problem
    numerics = EXPERTS.row(case.experts).numerics_for(problem.scheme)
    device = context.device

    def expert(e: int | str) -> tuple[Tensor, Tensor]:
        key = ("weights", case.seed, case.n, case.k, case.dtype, case.shared_experts, e)
        return cached(context, key, lambda: inputs.expert_weights(case, e, device))

    shared = expert("shared") if case.shared_experts else None
    plain = dataclasses.replace(problem, scheme=Scheme(weights="model", activations="model"))
    ideal = BaselineSiluAndMul(plain, IDEAL, expert, shared)
    scales = _static_scales(case, context, ideal)
    return Subject(
        case=case,
        layer=_build(case, context, expert, shared, scales),
        reference=BaselineSiluAndMul(problem, numerics, expert, shared),
        scales=scales,
        ideal=ideal,
    )


def _build(
    case: MoETestConfig,
    context: RankContext,
    expert: Any,
    shared: tuple[Tensor, Tensor] | None,
    scales: dict[str, Tensor | None],
) -> layer.FusedMoE:
    """The layer of this rank, its weights quantized whole and then sharded."""
    problem, rank = case.problem, context.rank

    def shard() -> ExpertWeights:
        here = [expert(e) for e in problem.layout.experts_of(rank, problem.num_experts)]
        blank = (torch.empty(0, 2 * case.n, case.k), torch.empty(0, case.k, case.n))
        pair = [torch.stack(w) for w in zip(*here, strict=True)] if here else list(blank)
        dtype = expert(0)[0].dtype
        w13, w2 = (w.to(dtype=dtype, device=context.device) for w in pair)
        return layer.shard_weights(problem, rank, QUANT.load(case.quant)(), w13, w2)

    key = (
        "shard",
        case.seed,
        case.n,
        case.k,
        case.num_experts,
        case.dtype,
        case.quant,
        case.layout,
    )
    weights = cached(context, key, shard).replace(**scales)
    members = layer.Members(experts=case.experts, all2all=case.all2all, quant=case.quant)
    mlp = None if shared is None else shard_shared(problem, rank, *shared)
    return layer.build(problem, rank, groups_of(case, context), members, weights, mlp)


def groups_of(case: MoETestConfig, context: RankContext) -> Groups:
    """Collective the first time a layout is met; then kept."""
    if case.world_size == 1:
        return Groups(gather=ALONE, tp=ALONE)

    def make() -> Groups:
        return make_groups(case.layout, context.rank, staged=context.transport == "staged")

    return cached(context, ("groups", case.layout), make, pinned=True)


def _static_scales(
    case: MoETestConfig, context: RankContext, ideal: BaselineSiluAndMul
) -> dict[str, Tensor | None]:
    """a1_scale and a2_scale from the ideal layer's largest values over tokens of their own."""
    fmt = FORMATS[case.problem.scheme.activations]
    if not fmt.static:
        return {"a1_scale": None, "a2_scale": None}

    def calibrate() -> dict[str, Tensor | None]:
        tokens = inputs.calibration_tokens(case, context.device)
        ids = true_routing.choose(tokens.logits, case.top_k)
        weights = torch.ones(ids.shape, device=context.device)
        answer = ideal(tokens.x, ids, weights)
        reciprocal = torch.tensor(1.0 / fmt.top, dtype=torch.float32, device=context.device)
        return {"a1_scale": answer.amax1 * reciprocal, "a2_scale": answer.amax2 * reciprocal}

    key = ("scales", case.seed, case.n, case.k, case.num_experts, case.top_k, case.dtype, fmt)
    return cached(context, key, calibrate)


def _answer(
    subject: Subject,
    mine: inputs.Tokens,
    output: layer.Output,
    counts: tuple[int, ...],
    context: RankContext,
) -> Answer:
    """The reference for this rank's tokens, on the routing that the layer itself chose.

    A dynamic per-tensor scale depends on all tokens together, so all are computed then; the
    other ranks' routing is the reference's own.
    """
    fmt = FORMATS[subject.case.problem.scheme.activations]
    ids, weights = output.routing.topk_ids, output.routing.topk_weights
    if fmt.per != "tensor" or fmt.static:
        return subject.reference(mine.x, ids, weights, **subject.scales)
    everyone = [
        inputs.tokens(subject.case, d, count, context.device) for d, count in enumerate(counts)
    ]
    x = torch.cat([t.x for t in everyone])
    logits = torch.cat([t.logits for t in everyone])
    index = torch.cat([t.index for t in everyone])
    ids = true_routing.choose(logits, subject.case.top_k)
    weights = true_routing.softmax_weights(logits, ids, renormalize=subject.case.renormalize)
    answer = subject.reference(x, ids, weights, **subject.scales)
    own = torch.isin(index, mine.index)
    return dataclasses.replace(
        answer, out=answer.out[own], variance=answer.variance[own], flips=answer.flips[own]
    )


def _judge(
    number: int,
    subject: Subject,
    mine: inputs.Tokens,
    output: layer.Output,
    answer: Answer,
    broken: list[str],
) -> Judgement:
    """Routing first, as a stage of its own; then the output; then the buffers' edges."""
    routing = true_routing.complaints(
        mine.logits,
        output.routing.topk_ids,
        output.routing.topk_weights,
        renormalize=subject.case.renormalize,
    )
    found = judge(output.out, answer)
    extra = (*routing, *(f"memory: {line}" for line in broken))
    if not extra and found.verdict is Verdict.PASSED:
        return found
    where = "" if number == 0 else f"second call with {len(mine.x)} tokens: "
    verdict = Verdict.FAILED if extra else found.verdict
    messages = tuple(where + text for text in (*extra, *found.messages))
    return Judgement(verdict=verdict, messages=messages, metrics=found.metrics)


def _sketches(
    subject: Subject, mine: inputs.Tokens, output: layer.Output, answer: Answer
) -> tuple[dict[str, Any], ...]:
    """This rank's first rows, compressed by random signs, with what may explain a difference."""
    rows = slice(0, SKETCHED_ROWS)
    if len(mine.x) == 0:
        return ()
    ids, weights = output.routing.topk_ids[rows], output.routing.topk_weights[rows]
    ideal = subject.ideal(mine.x[rows], ids, weights).out
    slack = bound(answer)[rows] + (answer.out[rows] - ideal).norm(dim=1)
    numbers = torch.arange(agree.WIDTH, device=mine.x.device)
    hashed = inputs.bits(0, "sketch", numbers, mine.x.shape[1])
    signs = torch.where(hashed < 0, -1.0, 1.0) / agree.WIDTH**0.5
    values = (output.out[rows].float() @ signs.T).tolist()
    pairs = zip(mine.index[rows].tolist(), values, slack.tolist(), strict=True)
    found = (agree.Sketch(token=t, values=tuple(v), slack=s) for t, v, s in pairs)
    return tuple(sketch.to_json() for sketch in found)


def _result(
    rank: int,
    judged: list[Judgement],
    clock: _Clock,
    subject: Subject,
    sketches: tuple[dict[str, Any], ...],
) -> RankResult:
    metrics: dict[str, float] = {}
    for judgement in judged:
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
