"""Find from outputs by which roundings a whole layer routes that hides its routing.

Declarations that give the same router weights are one hypothesis. Each is compared under the
numerics of the experts that are nearest, so that neither is taken for the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks.emulated_calls import emulated_of, fit_of
from harness.checks.router_fits import trials
from harness.fixtures.hidden_routing import hidden_routing
from harness.fixtures.routing_truth import resolved_roundings, router_row, stated_roundings
from harness.record.rounding_fit import HiddenRounding, RoundingFit
from moe.layers import COMPOSED
from moe.router_numerics import declaration

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from harness.checks.emulated_calls import Ran
    from harness.record.rounding_fit import Fit
    from moe.router_numerics import RouterNumerics

NEAREST = 6  # combinations of the experts' roundings, under each of which all are compared


def hidden_rounding(ran: Sequence[Ran], fits: Sequence[Fit]) -> HiddenRounding | None:
    """Return what the outputs say of a hidden routing; None if the cases' layer has none.

    fits: of the experts' roundings, with the routing as it is assumed.
    """
    if ran[0].subject.case.layer == COMPOSED or any(c.routed for r in ran for c in r.calls):
        return None
    # The weights have one dtype: that in which the router returns them.
    plain = (fit for fit in fits if fit.numerics.weight_dtype == "f32")
    nearest = sorted(plain, key=lambda fit: fit.residual)[:NEAREST]
    tried: list[RoundingFit] = []
    for rounding, cases in _distinct(ran).items():
        emulated = [emulated_of(case) for case in cases]
        of_all = [fit_of(fit.numerics, emulated) for fit in nearest]
        tried.append(RoundingFit(rounding=rounding, fit=min(of_all, key=lambda f: f.residual)))
    tried.sort(key=lambda each: each.fit.residual)
    assumed = _weights([case.rounded(_assumed(case)) for case in ran])
    best = _weights([case.rounded(tried[0].rounding) for case in ran])
    return HiddenRounding(
        tried=tuple(tried), is_assumed=best == assumed, is_stated=_is_stated(ran[0])
    )


def _distinct(ran: Sequence[Ran]) -> dict[RouterNumerics, list[Ran]]:
    """Return the shortest declaration of each set of router weights, with the cases under it."""
    first = ran[0].subject.case
    declarations = list(trials(router_row(first), bias=first.router_bias))
    shortest: dict[Hashable, RouterNumerics] = {}
    for rounding in sorted(declarations, key=lambda each: len(declaration(each))):
        shortest.setdefault(_expected(ran, rounding), rounding)
    return {rounding: [case.rounded(rounding) for case in ran] for rounding in shortest.values()}


def _expected(ran: Sequence[Ran], rounding: RouterNumerics) -> Hashable:
    """Return the router weights of all calls under a declaration, before neighbours are sought."""
    return tuple(
        hidden_routing(case.subject.case, call.tokens.logits, resolved)
        .topk_weights.cpu()
        .numpy()
        .tobytes()
        for case in ran
        for (resolved,) in (resolved_roundings(case.subject.case, case.context.device, rounding),)
        for call in case.calls
    )


def _weights(ran: Sequence[Ran]) -> Hashable:
    return tuple(
        call.output.routing.topk_weights.cpu().numpy().tobytes() for r in ran for call in r.calls
    )


def _assumed(case: Ran) -> RouterNumerics:
    """Return how the roundings are stated that the case's routing has."""
    return next(iter(stated_roundings(case.subject.case, case.context.device).values()))


def _is_stated(case: Ran) -> bool:
    """Tell whether the layer's row states where its router rounds."""
    first = case.subject.case
    rounding = router_row(first).stated_rounding(case.context.device.type, bias=first.router_bias)
    return rounding is not None
