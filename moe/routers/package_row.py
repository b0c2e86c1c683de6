"""Make the row of a released package's router, which is judged by the truth of its scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.routers.base import RouterSpec

if TYPE_CHECKING:
    from moe.router_numerics import RouterNumerics
    from moe.spec import Needs

_SATURATED_AT = {"sigmoid": 32.0}


def package_row(
    name: str,
    target: str,
    score: str,
    *,
    takes: frozenset[str],
    needs: Needs,
    rounding: RouterNumerics | None = None,
    rounding_with_bias: RouterNumerics | None = None,
) -> RouterSpec:
    """Return the row. score: the router of `moe.routers` whose scores it has, and whose truth."""
    truth = "".join(word.capitalize() for word in score.split("_"))
    return RouterSpec(
        name=name,
        target=target,
        truth=f"moe.routers.{score}.truth:{truth}Truth",
        needs=needs,
        sums_to_one=score == "softmax",
        saturated_at=_SATURATED_AT.get(score),
        takes=takes,
        rounding=rounding,
        rounding_with_bias=rounding_with_bias,
    )
