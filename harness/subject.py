"""What a case is about on one rank: the layer under test, the truth beside it, its tokens.

Weights, shards, calibrated scales and process groups are kept from case to case (see cache.py).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import torch

from harness import inputs
from harness.cache import BUDGET_BYTES, cached, keep
from moe import layer
from moe.experts import EXPERTS
from moe.parallel import ALONE, Groups, make_groups
from moe.quant import QUANT
from moe.reference import routing as true_routing
from moe.reference.holders import check_tokens
from moe.reference.layer import BaselineSiluAndMul
from moe.shared import shard_shared
from moe.spec import DTYPE_BYTES, FORMATS, Layout, Numerics, Scheme

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from harness.case import MoETestConfig
    from harness.context import RankContext
    from moe.types import ExpertWeights

IDEAL = Numerics(accumulation=0.0)
# Weights that are made by the same kernels: on a device starting kernels is what costs, on the
# CPU leaving its caches is.
_TOGETHER = {"cpu": 1 << 18, "cuda": 1 << 24}


class Scales(TypedDict):
    """Of static schemes: [] float32 each, else None."""

    a1_scale: Tensor | None
    a2_scale: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What a case is about on this rank; made once, called twice."""

    case: MoETestConfig
    layer: layer.FusedMoE
    reference: BaselineSiluAndMul
    scales: Scales
    ideal: BaselineSiluAndMul
    shared: tuple[Tensor, Tensor] | None  # whole, in the model dtype


def make_subject(case: MoETestConfig, context: RankContext) -> Subject:
    """Collective the first time a layout is met."""
    problem = case.problem
    numerics = EXPERTS.row(case.experts).numerics_for(problem.scheme, context.device.type)
    device = context.device

    _make_weights(case, context)

    def expert(e: int | str) -> tuple[Tensor, Tensor]:
        key = _weights_key(case, e)
        return cached(context, key, lambda: inputs.expert_weights(case, e, device))

    shared = expert("shared") if case.shared_experts else None
    nothing = Scheme(weights="model", activations="model")
    plain = dataclasses.replace(problem, scheme=nothing, layout=Layout())
    ideal = BaselineSiluAndMul(plain, IDEAL, expert, shared)
    scales = _static_scales(case, context, ideal)
    once = BaselineSiluAndMul(problem, numerics, expert, shared)
    return Subject(
        case=case,
        layer=_build(case, context, expert, shared, scales),
        reference=BaselineSiluAndMul(
            problem, numerics, expert, shared, values=_kept_values(case, context, once)
        ),
        scales=scales,
        ideal=ideal,
        shared=shared,
    )


def _make_weights(case: MoETestConfig, context: RankContext) -> None:
    """All experts' weights that are not there yet, many at a time, where all of them fit."""
    kind, each = context.device.type, 3 * case.n * case.k
    if case.num_experts * each * DTYPE_BYTES[case.dtype] > BUDGET_BYTES[kind] // 4:
        return
    missing = [e for e in range(case.num_experts) if _weights_key(case, e) not in context.caches]
    step = max(1, _TOGETHER[kind] // each)
    for start in range(0, len(missing), step):
        some = missing[start : start + step]
        made = inputs.weights_of(case, some, context.device)
        for e, pair in zip(some, made, strict=True):
            keep(context, _weights_key(case, e), pair)


def _weights_key(case: MoETestConfig, e: int | str) -> tuple[object, ...]:
    shape = (case.seed, case.n, case.k, case.dtype, case.shared_experts)
    return ("weights", *_inputs_of(case), *shape, e)


def _inputs_of(case: MoETestConfig) -> tuple[str, ...]:
    """What inputs depend on beside seed, shape and dtype: exact ones on the scheme, too."""
    return ("exact", case.quant) if case.exact else ()


def _kept_values(
    case: MoETestConfig, context: RankContext, once: BaselineSiluAndMul
) -> Callable[[int], tuple[Tensor, Tensor]] | None:
    """The reference's own weights by expert, kept while all of them fit: they cost the most."""
    size = case.num_experts * 3 * case.n * case.k * 4
    if size > BUDGET_BYTES[context.device.type] // 4:
        return None
    about = (*_inputs_of(case), case.seed, case.n, case.k, case.dtype, case.problem.scheme.weights)
    return lambda e: cached(context, ("values", *about, e), lambda: once.weights(e))


def _build(
    case: MoETestConfig,
    context: RankContext,
    expert: Any,
    shared: tuple[Tensor, Tensor] | None,
    scales: Scales,
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
        *_inputs_of(case),
        case.seed,
        case.n,
        case.k,
        case.num_experts,
        case.dtype,
        case.quant,
        case.layout,
    )
    weights = _copied(cached(context, key, shard).replace(**scales))
    members = layer.Members(experts=case.experts, all2all=case.all2all, quant=case.quant)
    own = None if shared is None else [w.clone() for w in shared]  # as with the experts'
    mlp = None if own is None else shard_shared(problem, rank, *own)
    return layer.build(problem, rank, groups_of(case, context), members, weights, mlp)


def _copied(kept: ExpertWeights) -> ExpertWeights:
    """For one case's member, which may convert in place what later cases will be given.

    Its static scales, too: the truth is worked out with the same ones.
    """
    tensors = {name: t for name, t in vars(kept).items() if t is not None}
    return kept.replace(**{name: t.clone() for name, t in tensors.items()})


def groups_of(case: MoETestConfig, context: RankContext) -> Groups:
    """Collective the first time a layout is met; then kept."""
    if case.world_size == 1:
        return Groups(gather=ALONE, tp=ALONE)

    def make() -> Groups:
        return make_groups(case.layout, context.rank, staged=context.transport == "staged")

    return cached(context, ("groups", case.layout), make, pinned=True)


def _static_scales(case: MoETestConfig, context: RankContext, ideal: BaselineSiluAndMul) -> Scales:
    """a1_scale and a2_scale from the ideal layer's largest values over tokens of their own."""
    fmt = FORMATS[case.problem.scheme.activations]
    if not fmt.static:
        return {"a1_scale": None, "a2_scale": None}

    def calibrate() -> Scales:
        tokens = inputs.calibration_tokens(case, context.device)
        ids = true_routing.choose(tokens.logits, case.top_k)
        weights = torch.ones(ids.shape, device=context.device)
        answer = ideal(tokens.x, ids, weights)
        reciprocal = torch.tensor(1.0 / fmt.top, dtype=torch.float32, device=context.device)
        return {"a1_scale": answer.amax1 * reciprocal, "a2_scale": answer.amax2 * reciprocal}

    key = (
        "scales",
        *_inputs_of(case),
        case.seed,
        case.n,
        case.k,
        case.num_experts,
        case.top_k,
        case.dtype,
        fmt,
    )
    return cached(context, key, calibrate)


def own_tokens(
    case: MoETestConfig, context: RankContext, counts: tuple[int, ...], start: int = 0
) -> inputs.Tokens:
    """This rank's tokens of a call; counts: tokens of each DP rank, from its token `start`.

    Raises ValueError where the layout loses or doubles some.
    """
    dp_rank = case.layout.dp_rank(context.rank)
    mine = case.layout.tokens_of(context.rank, counts)
    check_tokens(case.layout, dp_rank, counts)
    whole = inputs.tokens(case, dp_rank, counts[dp_rank], context.device, start)
    part = slice(mine.start, mine.stop)
    return inputs.Tokens(x=whole.x[part], logits=whole.logits[part], index=whole.index[part])
