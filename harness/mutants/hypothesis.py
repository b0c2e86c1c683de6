"""Define `Hypothesis`, one row of the tables of known mistakes, and short forms of its kinds.

Each row names a function in its family's module; the tables do not import torch.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from moe.activations import ACTIVATIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from harness.matrix.case import MoETestConfig
    from harness.mutants.sample import Scene
    from moe.spec import LayerSpec

FEW = 4  # rows for which a mistake inside the experts is computed
MORE_ROWS = "more tokens"
SPREAD = "top-k > 1 and router weights that are spread more"
LARGER = "a larger n, so that the tolerance is a smaller part of a row"
SHARED = "shared experts of a larger size"


# What cases of one quantization method on one layout can differ in: need -> whether a case has it.
NEEDS_OF_A_CASE: dict[str, Callable[[MoETestConfig], bool]] = {
    "shared": lambda case: case.shared_experts > 0,
    "slots": lambda case: case.top_k > 1 or not case.renormalize,
    "rows": lambda case: max(case.counts) > 1,
    "gated": lambda case: ACTIVATIONS.row(case.activation).gated,
}


# Stages after the experts: if one is the first wrong stage, what came before is right.
AFTER_EXPERTS = ("restored", "shared", "out")
SHOWN_AFTER_EXPERTS = frozenset(
    {"rows", "shared", "zero_experts", "latent", "ranks", "balancing", "tokens"}
)
# What is judged from its own recorded input: if one of these is the first wrong stage, what was
# computed before it is right, and so are mistakes of these families excluded.
_PRODUCTS = frozenset({"biases", "lora", "packed_codes", "scale_scopes", "scales", "weights"})
_ELSEWHERE = frozenset({"balancing", "latent", "ranks", "shared", "tokens", "zero_experts"})
_ACTIVATIONS = frozenset({"activation", "activation_parameters"})
_INSIDE = (_PRODUCTS - {"biases"}) | _ACTIVATIONS | {"rounding"}
NOT_FIRST_IN = {
    "activation": _PRODUCTS | _ELSEWHERE,
    "second": _PRODUCTS - {"scale_scopes", "scales"} | _ELSEWHERE | _ACTIVATIONS,
    "combine": _INSIDE,
    "finalize": _INSIDE | {"biases"},
}
# How mistakes begin that show in one of the two products only: not first in the others' stages
_OF_FIRST = ("first_bias", "input_", "lora_first", "lora_gate_only", "lora_up_only", "w13_")
_OF_SECOND = ("lora_second", "second_", "w2_")
NOT_OF_PRODUCT = {
    "gemm1": _OF_SECOND,
    "activation": (*_OF_FIRST, *_OF_SECOND),
    "second": (*_OF_FIRST, "lora_second", "second_bias", "w2_"),
    "gemm2": _OF_FIRST,
}
# What is wrong of a stage if tokens came to other ranks or experts than they should
OF_DELIVERY = ("counts of tokens", "ids", "adapters")
SHOWN_IN_DELIVERY = frozenset(
    {"rows", "experts", "ranks", "tokens", "balancing", "zero_experts", "lora"}
)


class NotApplicable(Exception):  # not an error: the mistake changes nothing in this case
    """Raised if a case's configuration rules the mistake out; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """Describe one mistake. cause: a clause for messages. remedy: inputs that would expose it.

    family: the module of this package that computes it. battery: part of every self-check.
    costly: experts run again, on at most `FEW` rows. needs: what a case must have for the mistake
    to exist: `quantized` (weights), `ranks` (more than one), `limit` (of the activation), `shards`
    (of an expert over ranks), one of `features_of` its layer, or one of `NEEDS_OF_A_CASE`.
    """

    name: str
    family: str  # module of this package
    cause: str
    battery: bool = False
    costly: bool = False
    needs: frozenset[str] = frozenset()
    remedy: str = MORE_ROWS

    def compute(self, scene: Scene) -> Tensor:
        """Return [r', K] float32, the output under the mistake for the first r' <= r rows.

        Raises NotApplicable if the mistake does not exist in this case.
        """
        module = importlib.import_module(f"harness.mutants.{self.family}")
        output: Tensor = getattr(module, self.name)(scene)
        return output

    def possible(self, layer_spec: LayerSpec) -> bool:
        """Tell whether some case of this quantization method and layout can have the mistake.

        Shared experts, the activation, the top-k and the number of tokens may be other ones.
        """
        features = features_of(layer_spec)
        has = {
            "quantized": layer_spec.scheme.weights != "model",
            "ranks": layer_spec.layout.world_size > 1,
            "limit": ACTIVATIONS.row(layer_spec.activation).limit is not None,
            "shards": layer_spec.layout.size("moe_tp") > 1,
        }
        needs = self.needs - NEEDS_OF_A_CASE.keys()
        return all(has.get(need, need in features) for need in needs)

    def may_show_in(self, stage: str | None, noun: str = "elements") -> bool:
        """Tell whether this may be the first wrong stage of the mistake; None: no stage is known.

        After the experts their products, routing and weights are known to be right, and inside them
        what comes before the stage. Where tokens came to other ranks or experts, nothing inside the
        experts is the first mistake. noun: what of the stage is wrong.
        """
        if noun in OF_DELIVERY:
            return self.family in SHOWN_IN_DELIVERY
        place = stage or ""
        if self.family in NOT_FIRST_IN.get(place, ()):
            return False
        if self.name.startswith(NOT_OF_PRODUCT.get(place, ())):
            return False
        is_after = self.family in SHOWN_AFTER_EXPERTS or self.name == "router_scale_on_shared"
        return stage not in AFTER_EXPERTS or is_after

    def exists_in(self, case: MoETestConfig) -> bool:
        """Tell whether this case has all that the mistake needs."""
        answers = (has for need, has in NEEDS_OF_A_CASE.items() if need in self.needs)
        return self.possible(case.layer_spec) and all(has(case) for has in answers)


def features_of(layer_spec: LayerSpec) -> frozenset[str]:
    """Return the features of a layer that mistakes may need."""
    more = {
        "shared_gate": layer_spec.shared_gate,
        "lora": layer_spec.adapters > 0,
        "eplb": layer_spec.is_balanced,
    }
    return layer_spec.layer_features | {name for name, has in more.items() if has}


def rows_of(family: str, **causes: str) -> tuple[Hypothesis, ...]:
    """Return mistakes that are cheap to compute, for the diagnosis only."""
    return tuple(Hypothesis(name=n, family=family, cause=c) for n, c in causes.items())


def costly(family: str, **causes: str) -> tuple[Hypothesis, ...]:
    """Return mistakes inside the experts, for the diagnosis only."""
    return tuple(
        Hypothesis(name=n, family=family, cause=cause, costly=True) for n, cause in causes.items()
    )


def proof(family: str, remedy: str, *needs: str, costly: bool = False, **causes: str) -> Hypothesis:
    """Return a mistake that is part of every self-check."""
    ((name, cause),) = causes.items()
    required = frozenset(needs)
    return Hypothesis(
        name=name,
        family=family,
        cause=cause,
        battery=True,
        costly=costly,
        needs=required,
        remedy=remedy,
    )
