"""Declare where a router rounds, so that it is judged with the same roundings. Torch-free.

A router may compute its scores or its weights in a narrower dtype than float32. Of equal rounded
scores either expert is then right, and weights are off by roundings. A row that states nothing is
judged by each of `alternatives`, one of which must explain all tokens. Whole layers, which route by
themselves, state the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_STORED = ("f32", "bf16", "fp16")
_OF_SCORES = (*_STORED, "logits", "model")
_OF_OTHERS = (*_OF_SCORES, "same")
_LOG_SUM = "log_sum"
_ROUNDOFF = {"f32": 0.0, "bf16": 2.0**-8, "fp16": 2.0**-11}  # largest relative error of a rounding


@dataclass(frozen=True, kw_only=True)
class RouterNumerics:
    """State the dtype in which a router keeps each value; what is left out is float32.

    `f32`, `bf16` and `fp16` name a dtype; `logits` is that of the logits, `model` the layer's, and
    `same` that of the values it is computed from, as torch chooses it: float32 if they differ.
    Raises ValueError for other values, and for `same` where a value is computed from the logits.
    """

    # In the order of computation.
    inner: str = "f32"  # scores that are computed in two steps, after the first: the softplus
    scores: str = "f32"  # of all experts
    keys: str = "f32"  # score + bias, which is in float32: the choice is by these
    groups: str = "f32"  # the sum of the two highest keys of a group
    chosen: str = "f32"  # the scores of the chosen experts
    total: str = "f32"  # their sum, which is rounded once
    weights: str = "f32"  # their quotients, or without renormalisation the chosen scores
    scaled: str = "f32"  # their products with the routing scale
    # Each step of a softmax that is computed as exp(logit - logsumexp(logits)), up to this
    # difference: only where no chosen scores are divided by their sum.
    log_sum: str = "f32"

    def __post_init__(self) -> None:
        for name in (*PLACES, _LOG_SUM):
            value = getattr(self, name)
            choices = _OF_SCORES if name in ("inner", "scores", _LOG_SUM) else _OF_OTHERS
            if value not in choices:
                listed = " or ".join((", ".join(choices[:-1]), choices[-1]))
                raise ValueError(f"{name} of a router is kept in {value!r}; it must be {listed}")

    @classmethod
    def as_torch(cls, **places: str) -> RouterNumerics:
        """Return the numerics of torch functions that get the logits as they are.

        Each value has the dtype of those that it is computed from, but for the named places.
        """
        every = dict.fromkeys(PLACES, "same") | {"inner": "logits", "scores": "logits"}
        return cls(**(every | places))

    def resolved(self, *, logits: str, model: str, bias: bool, renormalize: bool) -> RouterNumerics:
        """Return the numerics of a layer, with the name of a dtype in each place.

        logits, model: dtypes of the logits and of the layer. bias: whether a float32 one is added.
        """
        known = {"logits": logits, "model": model}
        dtype: dict[str, str] = {}
        sources = _SOURCES | {"keys": ("scores", "bias") if bias else ("scores",)}
        sources |= {"weights": ("chosen", "total") if renormalize else ("chosen",)}
        for name in PLACES:
            stated = getattr(self, name)
            made_of = {"f32" if source == "bias" else dtype[source] for source in sources[name]}
            same = made_of.pop() if len(made_of) == 1 else "f32"
            dtype[name] = same if stated == "same" else known.get(stated, stated)
        log_sum = "f32" if renormalize else known.get(self.log_sum, self.log_sum)
        return RouterNumerics(**dtype, log_sum=log_sum)

    @property
    def is_plain(self) -> bool:
        """Tell whether every value is kept in float32. Only of resolved numerics."""
        return self == PLAIN

    @property
    def rounds_choice(self) -> bool:
        """Tell whether the choice is by rounded values. Only of resolved numerics."""
        return {self.inner, self.scores, self.keys, self.groups} != {"f32"}

    def sum_error(self, *, renormalize: bool) -> float:
        """Return how far, relatively, roundings move a sum of weights. Only if resolved.

        Infinite with `log_sum`, whose errors grow with the logits.
        """
        if self.log_sum != "f32":
            return math.inf
        roundoff = {name: _ROUNDOFF[getattr(self, name)] for name in PLACES}
        moved = (1 + roundoff["weights"]) * (1 + roundoff["scaled"])
        if renormalize:
            return moved / (1 - roundoff["total"]) - 1
        before = ("inner", "scores", "chosen")
        for name in before:
            moved *= 1 + roundoff[name]
        return moved - 1


PLACES = tuple(f.name for f in fields(RouterNumerics) if f.name != _LOG_SUM)
PLAIN = RouterNumerics()
# Place -> what it is computed from; of `keys` and `weights` the layer decides.
_SOURCES: dict[str, tuple[str, ...]] = {
    "inner": (),
    "scores": (),
    "groups": ("keys",),
    "chosen": ("scores",),
    "total": ("chosen",),
    "scaled": ("weights",),
}
CUSTOMARY = (
    PLAIN,
    RouterNumerics.as_torch(),
    RouterNumerics.as_torch(total="f32"),
    RouterNumerics(weights="logits", scaled="same"),
    RouterNumerics(scaled="model"),
)


@dataclass(frozen=True, kw_only=True)
class StatesRounding:
    """Declare where a row's router rounds; a router's row has it, and that of a whole layer.

    rounding: None: not stated, so that customary roundings are tried. rounding_with_bias: the same
    for a layer with a bias, if that is otherwise. rounding_on: torch device type -> the same there,
    with and without a bias, if that is otherwise.
    """

    rounding: RouterNumerics | None = None
    rounding_with_bias: RouterNumerics | None = None
    rounding_on: Mapping[str, RouterNumerics] = field(default_factory=dict)

    def stated_rounding(self, device: str, *, bias: bool) -> RouterNumerics | None:
        """Return what is stated for a device of this torch type; None if nothing is."""
        if device in self.rounding_on:
            return self.rounding_on[device]
        is_otherwise = bias and self.rounding_with_bias is not None
        return self.rounding_with_bias if is_otherwise else self.rounding


def alternatives(
    stated: RouterNumerics | None, **layer: Any
) -> dict[RouterNumerics, RouterNumerics]:
    """Return the resolved numerics by which a router may be right, each with how a row states it.

    They are those that its row states, or customary ones. layer: the arguments of
    `RouterNumerics.resolved`.
    """
    tried: dict[RouterNumerics, RouterNumerics] = {}
    for numerics in CUSTOMARY if stated is None else (stated,):
        tried.setdefault(numerics.resolved(**layer), numerics)
    return tried


def only_of_weights(numerics: RouterNumerics) -> RouterNumerics:
    """Return the numerics of a router that chooses by the logits, and weighs in one step."""
    return replace(numerics, inner="f32", scores="f32", keys="f32", groups="f32")


def only_of_choice(numerics: RouterNumerics) -> RouterNumerics:
    """Return the numerics by which experts are chosen, and no others."""
    plain = dict.fromkeys(("chosen", "total", "weights", "scaled", _LOG_SUM), "f32")
    return replace(numerics, **plain)


def declaration(numerics: RouterNumerics) -> str:
    """Return the shortest expression that states these numerics, to paste into a row."""
    ways = ((PLAIN, "RouterNumerics"), (RouterNumerics.as_torch(), "RouterNumerics.as_torch"))
    texts = (f"{name}({_differences(numerics, base)})" for base, name in ways)
    return min(texts, key=len)


def _differences(numerics: RouterNumerics, base: RouterNumerics) -> str:
    """Return the arguments by which these numerics differ from the base."""
    stated = {name: getattr(numerics, name) for name in (*PLACES, _LOG_SUM)}
    named = (f'{name}="{value}"' for name, value in stated.items() if value != getattr(base, name))
    return ", ".join(named)
