"""Score, choose and weigh experts in one kernel: a router in Triton, with its twin in torch.

Equal keys are chosen by ascending id, of groups as of experts. A token whose logits hold a NaN gets
the experts 0, 1, ... with weights of NaN: its ids are in range, and the NaN is not hidden.
`moe.routing_method` says what bias, groups and scale mean.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
import triton
import triton.language as tl
from torch.nn.functional import softplus

from moe import guarded_buffers
from moe.errors import MoEError
from moe.kernels.arguments import check_matrix
from moe.kernels.launch import INTERPRETED, launch
from moe.kernels.tiles import program_rows, program_size
from moe.types import Routing

if TYPE_CHECKING:
    from torch import Tensor

# Scores -> number in the kernel. `chosen`: the softmax over the chosen logits only.
SCORES = {"softmax": 0, "sigmoid": 1, "softplus_sqrt": 2, "chosen": 3}
_ELEMENTS = 4096  # of logits that one program holds


def top_k_routing(
    logits: Tensor,
    top_k: int,
    scores: str,
    *,
    renormalize: bool,
    bias: Tensor | None = None,
    groups: int = 1,
    chosen_groups: int = 1,
    scale: float = 1.0,
) -> Routing:
    """Return the routing of logits [T, E], any float dtype, computed in float32.

    scores: a key of SCORES. bias: [E] float32. Raises MoEError for a bias of another shape, more
    experts than there are, and groups of unequal size.
    """
    check_matrix("logits", logits)
    tokens, experts = logits.shape
    _check(experts, top_k, bias, scores)
    _check_groups(experts, top_k, groups, chosen_groups)
    ids = guarded_buffers.empty((tokens, top_k), dtype=torch.int32, device=logits.device)
    weights = guarded_buffers.empty((tokens, top_k), dtype=torch.float32, device=logits.device)
    if tokens == 0:
        return Routing(topk_ids=ids, topk_weights=weights)
    wide = triton.next_power_of_2(experts)
    size = program_size(_ELEMENTS, _ELEMENTS, is_interpreted=INTERPRETED)
    rows = program_rows(tokens, wide, size, is_interpreted=INTERPRETED)
    launch(
        *(_top_k, (triton.cdiv(tokens, rows),), logits.device),
        *(logits.contiguous(), bias if bias is None else bias.float().contiguous()),
        *(ids, weights, tokens, experts, float(scale)),
        SCORES_OF=SCORES[scores],
        HAS_BIAS=bias is not None,
        RENORMALIZE=renormalize,
        GROUPS=groups,
        KEPT=chosen_groups,
        TOP_K=top_k,
        ROWS=rows,
        WIDE=wide,
        SLOTS=triton.next_power_of_2(top_k),
        GROUPS_WIDE=triton.next_power_of_2(groups),
    )
    return Routing(topk_ids=ids, topk_weights=weights)


def _check(experts: int, top_k: int, bias: Tensor | None, scores: str) -> None:
    if scores not in SCORES:
        raise MoEError(f"scores must be one of {', '.join(SCORES)}, not {scores!r}")
    if top_k > experts:
        raise MoEError(f"top_k {top_k} is larger than the number of logits, {experts}; lower it")
    if top_k < 1:
        raise MoEError(f"top_k is {top_k}; each token needs at least one expert")
    if bias is not None and tuple(bias.shape) != (experts,):
        raise MoEError(f"the bias has shape {list(bias.shape)}; it must have [{experts}]")


def _check_groups(experts: int, top_k: int, groups: int, chosen: int) -> None:
    if groups < 1 or experts % groups:
        raise MoEError(f"{experts} experts do not divide into {groups} groups of equal size")
    if not 1 <= chosen <= groups:
        raise MoEError(f"chosen_groups is {chosen}; it must be 1 to groups, which is {groups}")
    if top_k > chosen * (experts // groups):
        raise MoEError(
            f"{chosen} groups of {experts // groups} experts are fewer than top_k {top_k}; choose "
            "more groups"
        )


@triton.jit
def _scores(x, inside, SCORES_OF: tl.constexpr):
    """Return the scores of logits [ROWS, WIDE]; 0 outside, or the logits for `chosen`."""
    if SCORES_OF == 0:
        largest = tl.max(tl.where(inside, x, float("-inf")), axis=1)
        e = tl.where(inside, tl.exp(x - largest[:, None]), 0.0)
        return e / tl.sum(e, axis=1)[:, None]
    elif SCORES_OF == 1:
        return tl.where(inside, 1.0 / (1.0 + tl.exp(-x)), 0.0)
    elif SCORES_OF == 2:
        e = tl.exp(tl.minimum(x, 20.0))
        # 1 + e loses a small e, and e overflows for a large x.
        small = tl.where(e < 0.000244140625, e * (1.0 - 0.5 * e), tl.log(1.0 + e))
        return tl.where(inside, tl.sqrt(tl.where(x > 20.0, x, small)), 0.0)
    else:
        return x


@triton.jit
def _lowest_of_largest(keys, free, column, WIDE: tl.constexpr):
    """Return [ROWS], the lowest column of the largest key [ROWS, WIDE] among the free ones."""
    largest = tl.max(tl.where(free, keys, float("-inf")), axis=1)
    at = tl.where(free & (keys >= largest[:, None]), column, WIDE)
    return tl.min(at, axis=1)


@triton.jit
def _allowed(
    keys, inside, column, experts,
    GROUPS: tl.constexpr, KEPT: tl.constexpr, ROWS: tl.constexpr, WIDE: tl.constexpr,
    GROUPS_WIDE: tl.constexpr,
):  # fmt: skip
    """Return [ROWS, WIDE], whether an expert is of one of the best groups."""
    size = experts // GROUPS
    number = tl.arange(0, GROUPS_WIDE)[None, :]
    best = tl.full([ROWS, GROUPS_WIDE], float("-inf"), tl.float32)
    for g in tl.static_range(GROUPS):
        member = inside & (column // size == g)
        first = _lowest_of_largest(keys, member, column, WIDE)
        is_first = column == first[:, None]
        one = tl.max(tl.where(member, keys, float("-inf")), axis=1)
        two = tl.max(tl.where(member & (is_first == 0), keys, float("-inf")), axis=1)
        score = one + tl.where(size > 1, two, 0.0)
        best = tl.where(number == g, score[:, None], best)
    free = (number < GROUPS) & (best == best)
    allowed = column < 0
    for _ in tl.static_range(KEPT):
        group = _lowest_of_largest(best, free, number, GROUPS_WIDE)
        allowed = allowed | (column // size == group[:, None])
        free = free & (number != group[:, None])
    return allowed & inside


@triton.jit
def _top_k(
    logits_ptr, bias_ptr, ids_ptr, weights_ptr, tokens, experts, scale,
    SCORES_OF: tl.constexpr, HAS_BIAS: tl.constexpr, RENORMALIZE: tl.constexpr,
    GROUPS: tl.constexpr, KEPT: tl.constexpr, TOP_K: tl.constexpr,
    ROWS: tl.constexpr, WIDE: tl.constexpr, SLOTS: tl.constexpr, GROUPS_WIDE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    real = (row < tokens)[:, None]
    column = tl.arange(0, WIDE)[None, :] + tl.zeros([ROWS, WIDE], tl.int32)
    inside = column < experts
    at = row[:, None] * experts + column
    x = tl.load(logits_ptr + at, mask=real & inside, other=0.0).to(tl.float32)
    is_nan = tl.max(tl.where(inside & (x != x), 1, 0), axis=1)[:, None] > 0
    x = tl.where(is_nan, 0.0, x)
    scores = _scores(x, inside, SCORES_OF)
    keys = scores
    if HAS_BIAS:
        keys += tl.load(bias_ptr + column, mask=inside, other=0.0)
    keys = tl.where(is_nan, 0.0, keys)  # equal keys: the first experts
    free = inside
    if KEPT < GROUPS:
        free = _allowed(keys, inside, column, experts, GROUPS, KEPT, ROWS, WIDE, GROUPS_WIDE)
    slot = tl.arange(0, SLOTS)[None, :] + tl.zeros([ROWS, SLOTS], tl.int32)
    ids = tl.zeros([ROWS, SLOTS], tl.int32)
    weights = tl.zeros([ROWS, SLOTS], tl.float32)
    for s in tl.static_range(TOP_K):
        best = _lowest_of_largest(keys, free, column, WIDE)
        is_best = column == best[:, None]
        weight = tl.sum(tl.where(is_best, scores, 0.0), axis=1)
        ids = tl.where(slot == s, best[:, None], ids)
        weights = tl.where(slot == s, weight[:, None], weights)
        free = free & (is_best == 0)
    used = slot < TOP_K
    if SCORES_OF == 3:
        largest = tl.max(tl.where(used, weights, float("-inf")), axis=1)
        weights = tl.where(used, tl.exp(weights - largest[:, None]), 0.0)
    if RENORMALIZE or SCORES_OF == 3:
        weights = weights / tl.sum(weights, axis=1)[:, None]
    weights = tl.where(is_nan, float("nan"), weights * scale)
    to = row[:, None] * TOP_K + slot
    tl.store(ids_ptr + to, ids, mask=real & used)
    tl.store(weights_ptr + to, weights, mask=real & used)


def top_k_routing_torch(
    logits: Tensor,
    top_k: int,
    scores: str,
    *,
    renormalize: bool,
    bias: Tensor | None = None,
    groups: int = 1,
    chosen_groups: int = 1,
    scale: float = 1.0,
) -> Routing:
    """Compute the result of `top_k_routing` in torch; weights differ by float32's noise."""
    check_matrix("logits", logits)
    experts = logits.shape[1]
    _check(experts, top_k, bias, scores)
    _check_groups(experts, top_k, groups, chosen_groups)
    is_nan = logits.isnan().any(dim=1, keepdim=True)
    x = logits.float().masked_fill(is_nan, 0.0)
    values = _SCORES_TORCH[scores](x)
    keys = (values if bias is None else values + bias.float()).masked_fill(is_nan, 0.0)
    if chosen_groups < groups:
        by_group = keys.view(len(keys), groups, experts // groups)
        best = by_group.sort(dim=2, descending=True).values[:, :, :2].sum(dim=2)
        kept = _first_largest(best, chosen_groups)
        is_kept = torch.zeros_like(best, dtype=torch.bool).scatter_(1, kept, True)
        keys = by_group.masked_fill(~is_kept[:, :, None], -torch.inf).view(keys.shape)
    ids = _first_largest(keys, top_k)
    weights = values.gather(1, ids)
    if scores == "chosen":
        weights = torch.softmax(weights, dim=1)
    elif renormalize:
        weights = weights / weights.sum(dim=1, keepdim=True)
    weights = (weights * scale).masked_fill(is_nan, torch.nan)
    return Routing(topk_ids=ids.to(torch.int32), topk_weights=weights)


_SCORES_TORCH = {
    "softmax": lambda x: torch.softmax(x, dim=1),
    "sigmoid": torch.sigmoid,
    "softplus_sqrt": lambda x: softplus(x).sqrt(),
    "chosen": lambda x: x,
}


def _first_largest(values: Tensor, count: int) -> Tensor:
    """Return [T, count] int64, the columns of the largest values, the lowest of equal ones."""
    return values.argsort(dim=1, descending=True, stable=True)[:, :count]


class SoftmaxRouter:
    """Route by the kernel; rows differ in their scores."""

    scores: ClassVar[str] = "softmax"

    def __call__(self, logits: Tensor, top_k: int, *, renormalize: bool, **options: Any) -> Routing:
        return top_k_routing(logits, top_k, self.scores, renormalize=renormalize, **options)


class SigmoidRouter(SoftmaxRouter):
    """Route by sigmoids."""

    scores = "sigmoid"


class SoftplusSqrtRouter(SoftmaxRouter):
    """Route by square roots of softplus."""

    scores = "softplus_sqrt"


class TopKSoftmaxRouter(SoftmaxRouter):
    """Route by logits, and weigh by the softmax over the chosen ones."""

    scores = "chosen"
