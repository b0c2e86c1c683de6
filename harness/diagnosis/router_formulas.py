"""List other formulas than the layer's by which router weights may have been computed.

A formula has five parts; each can be replaced by another one, and two at once. What is right is the
empty text, so that a statement names only the parts that differ.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import softplus

from moe.reference.formats import on_grid
from moe.reference.router_rounding import all_scores, rounded_scores
from moe.reference.routing import truth_of
from moe.routers import ROUTERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

    from moe.reference.routing import RoutingTruth

OTHER_ROUTERS = ("softmax", "sigmoid")
NARROW = ("bf16", "fp16")
_Named = tuple[str, "Callable[..., Tensor]"]


@dataclass(frozen=True, kw_only=True)
class Routed:
    """What the router was given, and chose. logits: [T, E] float64. ids: [T, k] int64."""

    truth: RoutingTruth
    logits: Tensor
    ids: Tensor

    def kept(self, place: str, values: Tensor) -> Tensor:
        """Return values as the router's row says that they are rounded in this place."""
        return on_grid(values, getattr(self.truth.numerics, place))

    def chosen(self, values: Tensor) -> Tensor:
        """Return the chosen experts' values [T, k] of [T, E]."""
        return values.gather(1, self.ids)


@dataclass(frozen=True, kw_only=True)
class Formula:
    """One way to compute router weights. texts: how it differs. weights: [T, k] float64."""

    texts: tuple[str, ...]
    weights: Tensor


def formulas(routed: Routed, max_parts: int) -> Iterator[list[Formula]]:
    """Yield the formulas that differ from the right one in 1, ..., max_parts parts."""
    parts: list[list[_Named]] = [
        list(part(routed).items()) for part in (scores, sums, scales, roundings, places)
    ]
    for count in range(1, max_parts + 1):
        yield [
            formula
            for which in itertools.combinations(range(len(parts)), count)
            for chosen in itertools.product(*(parts[number][1:] for number in which))
            for formula in _computed(routed, parts, dict(zip(which, chosen, strict=True)))
        ]


def _computed(
    routed: Routed, parts: list[list[_Named]], other: dict[int, _Named]
) -> Iterator[Formula]:
    """Yield the formula with these parts replaced, unless it has no finite weights."""
    chosen = [other.get(number, part[0]) for number, part in enumerate(parts)]
    score, total, scale, rounded, placed = (function for _, function in chosen)
    of_all = routed.kept("scores", score())
    own = routed.kept("chosen", routed.chosen(of_all))
    quotients = routed.kept("weights", own / routed.kept("total", total(of_all, own)))
    weights = placed(rounded(routed.kept("scaled", scale(quotients))))
    if bool(weights.isfinite().all()):
        yield Formula(texts=tuple(text for text, _ in chosen if text), weights=weights)


def scores(routed: Routed) -> dict[str, Callable[[], Tensor]]:
    """Return what may have been the scores [T, E] of all experts, the right ones first."""
    truth, logits = routed.truth, routed.logits
    right = rounded_scores(truth.router, logits, truth.numerics).middle
    options: dict[str, Callable[[], Tensor]] = {"": lambda: right}
    bias = truth.bias
    if bias is not None:
        options["the scores with the correction bias are weighed"] = lambda: right + bias.double()
        options["the correction bias is added to the logits"] = _scored(
            truth, logits + bias.double()
        )
    for name in OTHER_ROUTERS:
        if name != truth.method.router:
            options[f"the scores are those of router {name}"] = _of_router(name, logits)
    options["the logits themselves are weighed"] = lambda: logits
    for dtype in NARROW:
        options[f"the scores are rounded to {dtype}"] = _on_grid(right, dtype)
        rounded = on_grid(logits.float(), dtype)
        if not torch.equal(rounded.double(), logits):
            options[f"the logits are rounded to {dtype}"] = _scored(truth, rounded)
        scored = truth.method.router.removeprefix("triton_")
        if scored in INNER:
            text, steps = INNER[scored]
            options[f"{text} is rounded to {dtype}"] = _rounded_inside(logits, steps, dtype)
    options["the squares of the scores are weighed"] = right.square
    options["the square roots of the scores are weighed"] = right.clamp(min=0).sqrt
    for step, name in ((1, "before"), (-1, "after")):
        options[f"each token has the scores of the token {name} it"] = _rolled(right, step, 0)
        options[f"each expert has the score of the expert {name} it"] = _rolled(right, step, 1)
    return options


def _rounded_inside(
    logits: Tensor, steps: tuple[Callable[..., Tensor], Callable[..., Tensor]], dtype: str
) -> Callable[[], Tensor]:
    inner, outer = steps
    return lambda: outer(on_grid(inner(logits).float(), dtype).double())


def _exponentials(logits: Tensor) -> Tensor:
    return (logits - logits.amax(dim=1, keepdim=True)).exp()


# Router -> what its scores are computed from, in words, and both steps
INNER: dict[str, tuple[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]]] = {
    "softplus_sqrt": ("the softplus, before its root,", (softplus, torch.sqrt)),
    "sigmoid": ("the exponential in the sigmoid", (lambda x: (-x).exp(), lambda e: 1 / (1 + e))),
    "softmax": (
        "the exponential in the softmax",
        (_exponentials, lambda e: e / e.sum(dim=1, keepdim=True)),
    ),
}


def _of_router(name: str, logits: Tensor) -> Callable[[], Tensor]:
    return lambda: all_scores(truth_of(name), logits)


def _on_grid(values: Tensor, dtype: str) -> Callable[[], Tensor]:
    return lambda: on_grid(values.float(), dtype).double()


def _scored(truth: RoutingTruth, logits: Tensor) -> Callable[[], Tensor]:
    return lambda: all_scores(truth.router, logits)


def _rolled(values: Tensor, step: int, dim: int) -> Callable[[], Tensor]:
    return lambda: values.roll(step, dim)


def sums(routed: Routed) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """Return by what the scores of all experts [T, E], or their own [T, k], may be divided."""
    method = routed.truth.method
    every: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "the weights are renormalised over the chosen experts": lambda _, own: own.sum(
            dim=1, keepdim=True
        ),
        "the weights are not renormalised": lambda _, own: own.new_ones(()),
        "the weights are divided by the scores' sum over all experts": lambda of_all, _: of_all.sum(
            dim=1, keepdim=True
        ),
        "the weights are divided by the largest one": lambda _, own: own.amax(dim=1, keepdim=True),
        "the weights are divided by the scores' sum without the last slot": lambda _, own: own[
            :, :-1
        ].sum(dim=1, keepdim=True),
        "the weights are divided by the scores' sum without the first slot": lambda _, own: own[
            :, 1:
        ].sum(dim=1, keepdim=True),
        "the weights are divided by the root of the scores' sum of squares": lambda _, own: (
            own.square().sum(dim=1, keepdim=True).sqrt()
        ),
        "the weights are divided by the number of slots": lambda _, own: own.new_full(
            (), own.shape[1]
        ),
    }
    is_renormalised = method.renormalize or ROUTERS.row(method.router).always_renormalizes
    right = list(every)[0 if is_renormalised else 1]
    return {"": every.pop(right), **every}


def scales(routed: Routed) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return by what the weights may be multiplied, the layer's scale first."""
    scale = routed.truth.method.scale
    options: dict[str, Callable[[Tensor], Tensor]] = {"": lambda weights: weights * scale}
    if scale != 1.0:
        options[f"the scale {scale:g} of the router is left out"] = lambda weights: weights
        options[f"the scale {scale:g} of the router is applied twice"] = lambda weights: (
            weights * scale**2
        )
        options[f"the weights are divided by the router's scale {scale:g}"] = lambda weights: (
            weights / scale
        )
    return options


def roundings(_: Routed) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return to what the weights may be rounded; right is not at all."""
    options: dict[str, Callable[[Tensor], Tensor]] = {"": lambda weights: weights}
    for dtype in NARROW:
        options[f"the weights are rounded to {dtype}"] = _rounder(dtype)
    return options


def _rounder(dtype: str) -> Callable[[Tensor], Tensor]:
    return lambda weights: on_grid(weights.float(), dtype).double()


def places(_: Routed) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return where the weights [T, k] may be; right is where they belong."""
    return {
        "": lambda weights: weights,
        "the weights of a token are in reverse order": lambda weights: weights.flip(1),
        "each slot has the weight of the slot before it": lambda weights: weights.roll(1, 1),
        "each slot has the weight of the slot after it": lambda weights: weights.roll(-1, 1),
        "each token has the weights of the token before it": lambda weights: weights.roll(1, 0),
        "each token has the weights of the token after it": lambda weights: weights.roll(-1, 0),
        "all slots of a token have the weight of the first one": lambda weights: weights[
            :, :1
        ].expand_as(weights),
        "all tokens have the weights of the first one": lambda weights: weights[:1].expand_as(
            weights
        ),
        "the weights are sorted, ascending": lambda weights: weights.sort(dim=1).values,
        "the weights are sorted, descending, and the ids are not": lambda weights: (
            weights.sort(dim=1, descending=True).values
        ),
    }
