"""Find whether a router is right but for roundings that its row does not state.

Its experts and the weights of all tokens must then be right with other roundings, customary ones.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from harness.diagnosis.router_weights import routed_of
from harness.record.diagnosis import NamedCause
from moe.router_numerics import declaration
from moe.routers import ROUTERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from harness.diagnosis.evidence import Evidence
    from harness.diagnosis.router_formulas import Routed
    from moe.router_numerics import RouterNumerics

NAME = "router_roundings"


def explain(evidence: Evidence) -> Iterator[NamedCause]:
    """Yield the declaration that makes the ids and weights of all tokens right, if one does."""
    routed, weights = routed_of(evidence)
    if routed is not None and weights is not None:
        yield from router_roundings(routed, weights, evidence.scene.case.dtype)


def router_roundings(routed: Routed, weights: Tensor, dtype: str) -> Iterator[NamedCause]:
    """Yield the first declaration that makes ids and weights [T, k] right, if they are wrong.

    dtype: the layer's.
    """
    if not bool(weights.isfinite().all()) or not _errors(routed, routed.truth.numerics, weights):
        return
    silent = ROUTERS.row(routed.truth.method.router).silenced()
    for resolved, numerics in silent.stated_roundings(routed.truth.method, dtype).items():
        if not _errors(routed, resolved, weights):
            shown = f"state rounding={declaration(numerics)}"
            cause = f"in the router all is right but for roundings: if they are meant, {shown}"
            yield NamedCause(name=NAME, cause=cause, residual=0.0)
            return


def _errors(routed: Routed, numerics: RouterNumerics, weights: Tensor) -> list[str]:
    truth = dataclasses.replace(routed.truth, numerics=numerics)
    return truth.errors(routed.logits, routed.ids.int(), weights.float())
