"""The reference of the routers, and the check of a member's choice of experts.

Any choice among ties is valid: each chosen logit must be at least each other logit, less the
noise of computing the logits. With a bias or groups, score + bias stands for the logit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from moe.reference.limited_choice import Keys
from moe.reference.router_rounding import (
    STEP_NOISE,
    Interval,
    rounded_scores,
    rounded_weights,
)
from moe.router_numerics import PLAIN, declaration
from moe.routers import ROUTERS
from moe.spec import RoutingMethod, resolve

if TYPE_CHECKING:
    from torch import Tensor

    from moe.router_numerics import RouterNumerics
    from moe.routers.base import RouterTruth

# of a score and its renormalisation in float32: a few roundings of 2**-24 and the error of exp
WEIGHT_NOISE = STEP_NOISE
# of the sigmoid of a float32 sum over the hidden columns, whose terms are much larger than it
FUSED_NOISE = 2.0**-16


@dataclass(frozen=True, kw_only=True)
class RoutingTruth:
    """Compute the routing of a method. bias: [E] float32, if the method has one, else None.

    All logits are [T, E], any float dtype; ids are [T, k] without -1. numerics: resolved, by which
    a router's output is judged; what is computed here is not rounded.
    """

    method: RoutingMethod
    bias: Tensor | None = None
    numerics: RouterNumerics = PLAIN

    @property
    def router(self) -> RouterTruth:
        """Return the reference of the router's scores."""
        return truth_of(self.method.router)

    @property
    def by_logits(self) -> bool:
        """Tell whether the order of logits decides: no bias, and no group is left out."""
        return not self.method.bias and not self.method.is_limited

    def keys(self, logits: Tensor) -> Keys:
        """Return the keys of the choice by score + bias."""
        scores = self.router.scores(logits)
        values, noise = self._with_bias(scores)
        return self._keys(values, noise)

    def rounded_keys(self, logits: Tensor) -> Keys:
        """Return the keys of the choice as the numerics round them."""
        scores = rounded_scores(self.router, logits, self.numerics)
        low, noise = self._with_bias(scores.low)
        high, _ = self._with_bias(scores.high)
        if self.bias is None:  # then the keys are the scores themselves
            noise = torch.zeros_like(noise)
        keys = Interval(low=low - noise / 2, high=high + noise / 2).kept_in(self.numerics.keys)
        return self._keys((keys.low + keys.high) / 2, keys.high - keys.low)

    def _with_bias(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores [T, E] with the bias, and the noise [T, 1] of adding it."""
        bias = scores.new_zeros(1) if self.bias is None else self.bias.double()
        largest = scores.abs().amax(dim=1, keepdim=True) + bias.abs().amax()
        return scores + bias, WEIGHT_NOISE * largest

    def _keys(self, values: Tensor, noise: Tensor) -> Keys:
        return Keys(
            values=values,
            noise=noise,
            groups=self.method.groups,
            chosen_groups=self.method.chosen_groups,
            group_dtype=self.numerics.groups,
        )

    def choose(self, logits: Tensor) -> Tensor:
        """Return ids [T, k] int32, best first; of equal ones the lowest."""
        if self.by_logits:
            return self.router.choose(logits, self.method.top_k)
        return self.keys(logits).choose(self.method.top_k)

    def weights(self, logits: Tensor, topk_ids: Tensor) -> Tensor:
        """Return the weights [T, k] float32 of these experts."""
        plain = self.router.weights(logits, topk_ids, renormalize=self.method.renormalize)
        return (plain.double() * self.method.scale).float()

    def gap(self, logits: Tensor) -> Tensor:
        """Return [T] float64, how far the choice is from another one, in logits or in scores."""
        if not self.by_logits:
            return self.keys(logits).gap(self.method.top_k)
        plain = logits.double()
        keys = Keys(values=plain, noise=plain.new_zeros(1), groups=1, chosen_groups=1)
        return keys.gap(self.method.top_k)

    def is_valid(self, logits: Tensor, is_selected: Tensor) -> Tensor:
        """Return [T] bool: whether no unselected expert would have to be selected."""
        if self.numerics.rounds_choice:
            return self.rounded_keys(logits).is_valid(is_selected)
        if self.by_logits:
            return self.router.is_valid(logits.double(), is_selected, WEIGHT_NOISE)
        return self.keys(logits).is_valid(is_selected)

    def limits(self, logits: Tensor, topk_ids: Tensor) -> Interval:
        """Return between which values the weights [T, k] of these experts must be."""
        if self.numerics.is_plain:
            weights = self.weights(logits, topk_ids).double()
            return _near(weights, WEIGHT_NOISE)
        renormalize, ids = self.method.renormalize, topk_ids.long()
        if ROUTERS.row(self.method.router).always_renormalizes:
            plain = self.router.weights(logits, ids, renormalize=renormalize).double()
            chosen, renormalize = Interval.around(plain), False
        else:
            scores = rounded_scores(self.router, logits, self.numerics)
            chosen = scores.map(lambda values: values.gather(1, ids))
        scale = self.method.scale
        return rounded_weights(chosen, self.numerics, renormalize=renormalize, scale=scale)

    def errors(self, logits: Tensor, topk_ids: Tensor, topk_weights: Tensor) -> list[str]:
        """Return what is wrong with a router's output; empty if it is correct.

        topk_ids: [T, k] int32. topk_weights: [T, k] float32.
        """
        ids = topk_ids.long()
        if len(logits) == 0:
            return []
        if errors := _out_of_range(ids, logits.shape[1]):
            return errors
        is_chosen = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, ids, True)
        if errors := _twice(ids, is_chosen) + self._not_best(logits, is_chosen):
            return errors
        texts = _wrong_weights(self.limits(logits, ids), topk_weights)
        if self.numerics.is_plain:
            return texts
        return [f"{text}, rounded as in {declaration(self.numerics)}" for text in texts]

    def _not_best(self, logits: Tensor, is_chosen: Tensor) -> list[str]:
        rounds = self.numerics.rounds_choice
        by_logits = self.by_logits and not rounds
        keys = self.rounded_keys if rounds else self.keys
        values = logits.double() if by_logits else keys(logits).values
        lowest = values.masked_fill(~is_chosen, torch.inf).amin(dim=1)
        highest = values.masked_fill(is_chosen, -torch.inf).amax(dim=1)
        bad = (~self.is_valid(logits, is_chosen)).nonzero()
        if len(bad) == 0:
            return []
        row = int(bad[0])
        tokens = f"{len(bad)} of {len(logits)} tokens leave out a better expert"
        if self.method.is_limited:
            tokens = f"{tokens} or group of experts"
        noun = "logit" if by_logits else "score with bias" if self.method.bias else "score"
        text = f"chose {noun} {lowest[row]:.6g} over {highest[row]:.6g}"
        return [f"routing: {tokens}, first token {row}: {text}"]


def truth_of(router: str) -> RouterTruth:
    """Return the reference of a router, by its name in `moe.routers`."""
    truth: RouterTruth = resolve(ROUTERS.row(router).truth)()
    return truth


def weights(
    logits: Tensor, topk_ids: Tensor, *, renormalize: bool, router: str = "softmax"
) -> Tensor:
    """Return the weights [T, k] float32 of the experts `topk_ids` [T, k], none of them -1.

    logits: [T, E].
    """
    return truth_of(router).weights(logits, topk_ids, renormalize=renormalize)


def choose(logits: Tensor, top_k: int, router: str = "softmax") -> Tensor:
    """Return the ids [T, k] that the router chooses by logits [T, E], lower ids first in ties."""
    return truth_of(router).choose(logits, top_k)


def routing_errors(
    logits: Tensor,
    topk_ids: Tensor,
    topk_weights: Tensor,
    *,
    renormalize: bool,
    router: str = "softmax",
) -> list[str]:
    """Return what is wrong with the output of a router without options; empty if it is correct.

    logits: [T, E], the router's input. topk_ids: [T, k] int32. topk_weights: [T, k] float32.
    """
    method = RoutingMethod(router=router, top_k=topk_ids.shape[1], renormalize=renormalize)
    return RoutingTruth(method=method).errors(logits, topk_ids, topk_weights)


def fused_errors(actual: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> list[str]:
    """Return what is wrong with the slots of fused shared experts; empty if they are correct.

    actual, expected: ids and weights [T, slots], the same in the router's slots.
    """
    (ids, weights), (right_ids, right_weights) = actual, expected
    if ids.shape != right_ids.shape:
        sizes = f"{ids.shape[1]} slots of a token, {right_ids.shape[1]}"
        return [f"routing: {sizes} with the fused shared experts"]
    bad = (ids != right_ids).any(dim=1).nonzero()
    if len(bad):
        row = int(bad[0])
        pair = f"{ids[row].tolist()}, expected {right_ids[row].tolist()}"
        return [f"routing: token {row} is not sent to each fused shared expert: {pair}"]
    return _wrong_weights(_near(right_weights.double(), FUSED_NOISE), weights)


def _out_of_range(ids: Tensor, experts: int) -> list[str]:
    bad = ((ids < 0) | (ids >= experts)).any(dim=1).nonzero()
    if len(bad) == 0:
        return []
    row = int(bad[0])
    return [f"routing: token {row} is sent to {ids[row].tolist()}, experts are 0..{experts - 1}"]


def _twice(ids: Tensor, is_chosen: Tensor) -> list[str]:
    bad = (is_chosen.sum(dim=1) < ids.shape[1]).nonzero()
    if len(bad) == 0:
        return []
    row = int(bad[0])
    return [
        f"routing: {len(bad)} tokens choose an expert twice, first token {row}: {ids[row].tolist()}"
    ]


def _near(weights: Tensor, noise: float) -> Interval:
    """Return what differs from weights [T, k] by at most the noise of a token's largest one."""
    distance = noise * weights.amax(dim=1, keepdim=True)
    return Interval(low=weights - distance, high=weights + distance)


def _wrong_weights(limits: Interval, weights: Tensor) -> list[str]:
    off = limits.exclude(weights.double())
    if not off.any():
        return []
    row, slot = (int(i) for i in off.nonzero()[0])
    tokens = f"{int(off.any(dim=1).sum())} of {len(weights)} tokens have wrong weights"
    expected = float(limits.middle[row, slot])
    values = f"{float(weights[row, slot]):.6g}, expected {expected:.6g}"
    return [f"routing: {tokens}, first token {row} slot {slot}: {values}"]
