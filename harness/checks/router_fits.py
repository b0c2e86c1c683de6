"""Compare a router's output with every declaration of roundings, row by row.

It runs in the rank. Logits are normal and dense, so that rounded scores often meet at the boundary
of the choice: only there it shows by which values a router chooses.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from harness.fixtures.routing_truth import routing_truth
from harness.matrix.case import MoETestConfig
from harness.record.router_fit import RouterFit, RouterMeasured
from moe.router_numerics import RouterNumerics, only_of_choice, only_of_weights
from moe.routers import ROUTERS
from moe.routing_method import GROUPS, LOGITS_DTYPE, SCALE
from moe.spec import resolve
from moe.types import TORCH_DTYPE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from moe.reference.routing import RoutingTruth
    from moe.routers.base import RouterSpec

SPREAD = 0.5  # standard deviation of logits


@dataclass(frozen=True, kw_only=True)
class RouterCall:
    """Hold one call of a router: logits [T, E], ids [T, k] int64 and weights [T, k]."""

    logits: Tensor
    ids: Tensor
    weights: Tensor


@dataclass(frozen=True, kw_only=True)
class Explains:
    """Hold what `RouterFit` holds of one case."""

    rows: int
    ties: int
    weights: str


def measure(case_ids: Sequence[str], device: str) -> RouterMeasured:
    """Call the cases' router, and return how many rows each declaration explains.

    device: a torch device type. Exceptions of the router pass through.
    """
    place = torch.device("cpu") if device == "cpu" else torch.device(device, 0)
    cases = [MoETestConfig.from_id(text) for text in case_ids]
    with torch.inference_mode():
        ran = [(case, calls_of(case, place)) for case in cases]
        return measured(ran)


def calls_of(case: MoETestConfig, device: torch.device) -> list[RouterCall]:
    """Call the case's router twice, with different numbers of tokens."""
    router, method = ROUTERS.load(case.router)(), case.layer_spec.routing_method
    arguments = method.arguments(routing_truth(case, device).bias)
    dtype = case.dtype if case.logits_dtype == "model" else case.logits_dtype
    calls = []
    for number, tokens in enumerate((case.m, case.m // 2 + 1)):
        seeded = torch.Generator().manual_seed(case.seed + number)
        normal = torch.randn(tokens, case.num_experts, generator=seeded) * SPREAD
        logits = normal.to(device, TORCH_DTYPE[dtype])
        routing = router(logits.clone(), case.top_k, renormalize=case.renormalize, **arguments)
        ids, weights = routing.topk_ids.long(), routing.topk_weights
        calls.append(RouterCall(logits=logits, ids=ids, weights=weights))
    return calls


def measured(ran: Sequence[tuple[MoETestConfig, Sequence[RouterCall]]]) -> RouterMeasured:
    """Return the fits of all declarations to what the router of these cases returned."""
    row = ROUTERS.row(ran[0][0].router)
    judges = [_Judge(case, calls) for case, calls in ran]
    stated = {row.stated_rounding(j.device.type, bias=j.case.router_bias) for j in judges}
    own = next(iter(stated)) if len(stated) == 1 else None
    return RouterMeasured(
        cases=tuple(case.id for case, _ in ran),
        rows=tuple(sum(len(call.logits) for call in calls) for _, calls in ran),
        calls=sum(len(calls) for _, calls in ran),
        fits=tuple(_fit(rounding, judges) for rounding in trials(row, bias=ran[0][0].router_bias)),
        stated=None if own is None else _fit(own, judges),
    )


def trials(row: RouterSpec, *, bias: bool) -> Iterator[RouterNumerics]:
    """Yield declarations of the places that mean something for a row, float32 first.

    Then those of torch functions with some places in float32, which are shorter to write. Chosen
    scores are not rounded again where all scores are rounded. bias: whether the cases have one.
    """
    places = list(_places(row, bias=bias))
    narrow = ("logits", "model") if LOGITS_DTYPE in row.takes else ("logits",)
    for values in itertools.product(("f32", *narrow), repeat=len(places)):
        rounding = RouterNumerics(**dict(zip(places, values, strict=True)))
        if "f32" in (rounding.scores, rounding.chosen):
            yield rounding
    if row.sums_to_one:  # a softmax may be computed as exp(logit - logsumexp(logits))
        yield from (RouterNumerics(weights=dtype, log_sum=dtype) for dtype in narrow)
    for size in range(len(places)):
        for names in itertools.combinations(places, size):
            yield RouterNumerics.as_torch(**dict.fromkeys(names, "f32"))


def _places(row: RouterSpec, *, bias: bool) -> Iterator[str]:
    """Yield the places that a row's options use; only a bias makes keys other than scores."""
    if not row.always_renormalizes:
        if hasattr(resolve(row.truth), "inner"):
            yield "inner"
        yield "scores"
        if bias:
            yield "keys"
        if bias and GROUPS in row.takes:
            yield "groups"
        yield from ("chosen", "total")
    yield "weights"
    if SCALE in row.takes:
        yield "scaled"


class _Judge:
    """Judge the calls of one case by any declaration; equal steps are judged once."""

    def __init__(self, case: MoETestConfig, calls: Sequence[RouterCall]) -> None:
        self.device = calls[0].logits.device
        self.case = case
        self._always = ROUTERS.row(case.router).always_renormalizes
        self._truth = routing_truth(case, self.device)
        self._has_inner = hasattr(self._truth.router, "inner")
        self._calls = calls
        model = case.dtype
        self._layer: dict[str, Any] = {
            "logits": model if case.logits_dtype == "model" else case.logits_dtype,
            "model": model,
            "bias": case.router_bias,
            "renormalize": case.renormalize or self._always,
        }
        self._known: dict[tuple[str, RouterNumerics], tuple[Any, ...]] = {}

    def __call__(self, rounding: RouterNumerics) -> Explains:
        """Return what a declaration explains of the case."""
        resolved = rounding.resolved(**self._layer)
        if self._always:
            resolved = only_of_weights(resolved)
        if not self._has_inner:
            resolved = replace(resolved, inner="f32")
        is_chosen, ties = self._kept(only_of_choice(resolved), self._choice)
        weighed, digest = self._kept(replace(resolved, keys="f32", groups="f32"), self._weights)
        return Explains(rows=int((is_chosen & weighed).sum()), ties=ties, weights=digest)

    def _kept(
        self, numerics: RouterNumerics, judge: Callable[[RoutingTruth], tuple[Any, ...]]
    ) -> tuple[Any, ...]:
        """Return what a step's judge says, computed once for equal numerics."""
        key = (judge.__name__, numerics)
        if key not in self._known:
            self._known[key] = judge(replace(self._truth, numerics=numerics))
        return self._known[key]

    def _choice(self, truth: RoutingTruth) -> tuple[Tensor, int]:
        """Return [rows] bool, where the choice is valid, and in how many rows others are, too."""
        valid, ties = [], 0
        for call in self._calls:
            chosen = torch.zeros_like(call.logits, dtype=torch.bool).scatter_(1, call.ids, True)
            valid.append(truth.is_valid(call.logits, chosen))
            if not self._always:
                keys = truth.rounded_keys(call.logits)
                ties += int((keys.gap(call.ids.shape[1]) <= keys.noise.amax(dim=1)).sum())
        return torch.cat(valid), ties

    def _weights(self, truth: RoutingTruth) -> tuple[Tensor, str]:
        """Return [rows] bool, where the weights are right, and a digest of the right ones."""
        right, digest = [], hashlib.sha1(usedforsecurity=False)
        for call in self._calls:
            limits = truth.limits(call.logits, call.ids)
            right.append(~limits.exclude(call.weights.double()).any(dim=1))
            for ends in (limits.low, limits.high):
                digest.update(ends.float().cpu().numpy().tobytes())
        return torch.cat(right), digest.hexdigest()


def _fit(rounding: RouterNumerics, judges: Sequence[_Judge]) -> RouterFit:
    explains = [judge(rounding) for judge in judges]
    fields: dict[str, Any] = {
        name: tuple(getattr(of_case, name) for of_case in explains)
        for name in ("rows", "ties", "weights")
    }
    return RouterFit(rounding=rounding, **fields)
