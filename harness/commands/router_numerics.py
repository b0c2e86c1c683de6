"""Run `numerics --router`: find where a router rounds, and print the line for its row. No torch.

Each declaration is a hypothesis about every row of every call. Only one that explains them all is
proposed, and only if no other one fits as well: a row that says what nobody knows is worse than a
silent one.
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.errors import ExitCode, UsageError
from harness.matrix.case import MoETestConfig
from harness.plan.plan import make_plan
from harness.testing.parallel_launch import RankFailure
from moe.router_numerics import declaration
from moe.routers import ROUTERS
from moe.routing_method import BIAS, GROUPS, LOGITS_DTYPE, SCALE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from harness.plan.machine import Machine
    from harness.plan.plan import Plan
    from harness.record.router_fit import RouterFit, RouterMeasured

FEWEST = 16  # rows that must tell two declarations apart
_MEASURE = "harness.checks.router_fits:measure"
_SIZES = {"m": 256, "n": 64, "k": 64, "num_experts": 64, "top_k": 8, "experts": "torch_loop"}


@dataclass(frozen=True, kw_only=True)
class Inferred:
    """Hold what the outputs say. best: the fit that explains most, written as shortly as possible.

    rivals: others that explain all rows as well, one for each meaning; empty if nothing explains
    all. is_stated: whether the row states what the best one means; None: it states nothing.
    """

    best: RouterFit
    explains_all: bool
    rivals: tuple[RouterFit, ...]
    is_stated: bool | None

    @property
    def is_right(self) -> bool:
        """Tell whether the outputs are explained, and the row states nothing else."""
        return self.explains_all and self.is_stated is not False


def infer(
    name: str,
    local: Machine,
    refused: Callable[[Plan], Exception],
    in_rank: Callable[[Plan, str], RouterMeasured],
) -> int:
    """Print where the router rounds; return 0 if its row says nothing else, otherwise 1.

    refused: returns the error if no case can run. in_rank: calls a function, given by its name,
    with a plan's cases in a rank.
    """
    if not ROUTERS.row(name).is_judged:
        raise UsageError(f"{name} is a function whose scores nobody else knows; give it a `row`")
    plans = [make_plan(points, local) for points in points_of(name)]
    if not any(plan.cases for plan in plans):
        raise refused(plans[0])
    is_right = True
    for plan in (plan for plan in plans if plan.cases):
        try:
            measured = in_rank(plan, _MEASURE)
        except RankFailure as error:
            print(f"{name} returned no outputs to compare: {error}", file=sys.stderr)
            return ExitCode.FAILED
        inferred = infer_from(measured)
        print("\n".join(lines(name, plan, measured, inferred)), flush=True)
        is_right &= inferred.is_right
    return ExitCode.PASSED if is_right else ExitCode.FAILED


def points_of(name: str) -> Iterator[list[MoETestConfig]]:
    """Yield the cases without a bias, and those with one if the row takes it.

    Logits of either dtype tell which values follow theirs.
    """
    takes = ROUTERS.row(name).takes
    fields: dict[str, Any] = {**_SIZES, "router": name}
    if SCALE in takes:
        fields["router_scale"] = 2.5
    logits = ("model", "f32") if LOGITS_DTYPE in takes else ("model",)
    plain = [
        MoETestConfig(**fields, dtype=dtype, logits_dtype=of_logits, renormalize=renormalize)
        for dtype, of_logits, renormalize in itertools.product(
            ("bf16", "fp16"), logits, (True, False)
        )
    ]
    yield plain
    if BIAS in takes:
        biased = [case.replace(router_bias=True) for case in plain]
        grouped = [case.replace(router_groups=8, chosen_groups=4) for case in biased]
        yield biased + (grouped if GROUPS in takes else [])


def infer_from(measured: RouterMeasured) -> Inferred:
    """Return the declaration that explains all rows and accepts least; see `Inferred`."""
    nearest = max(measured.fits, key=lambda fit: (fit.total, -sum(fit.ties)))
    fitting = [fit for fit in measured.fits if fit.total == measured.total]
    best = _shortest([fit for fit in measured.fits if fit.means_the_same(nearest)])
    rivals: list[RouterFit] = []
    for fit in fitting:
        if not any(fit.means_the_same(other) for other in (best, *rivals)) and _rivals(fit, best):
            rivals.append(_shortest([other for other in fitting if other.means_the_same(fit)]))
    stated = measured.stated
    is_stated = None if stated is None else stated.means_the_same(best)
    return Inferred(
        best=best, explains_all=bool(fitting), rivals=tuple(rivals), is_stated=is_stated
    )


def _rivals(fit: RouterFit, best: RouterFit) -> bool:
    """Tell whether the rows do not tell a fitting declaration from the best one.

    One that expects the same weights and accepts more choices, none of which occur, is worse.
    """
    return fit.weights != best.weights or sum(fit.ties) - sum(best.ties) < FEWEST


def _shortest(fits: list[RouterFit]) -> RouterFit:
    return min(fits, key=lambda fit: len(declaration(fit.rounding)))


def lines(name: str, plan: Plan, measured: RouterMeasured, inferred: Inferred) -> Iterator[str]:
    """Yield the report on cases that all have a bias, or none."""
    kind = "with a bias" if plan.cases[0].router_bias else "without a bias"
    yield f"{name} {kind} on {plan.machine.platform.name}, {len(plan.cases)} cases of one rank:"
    yield from (f"  {case.id}" for case in plan.cases)
    total, calls, text = measured.total, measured.calls, declaration(inferred.best.rounding)
    if not inferred.explains_all:
        yield f"No declaration explains all of its {total} rows in {calls} calls: the nearest,"
        yield f"{text}, explains {inferred.best.total}."
        pairs = zip(measured.cases, inferred.best.rows, measured.rows, strict=True)
        left = [case for case, explained, rows in pairs if explained < rows]
        yield f"It leaves rows of {len(left)} of {len(measured.cases)} cases, the first of them:"
        yield f"  python -m harness run --case {left[0]}"
        return
    yield f"{text} explains {total} of {total} rows in {calls} calls."
    if inferred.rivals:
        others = "; ".join(declaration(fit.rounding) for fit in inferred.rivals)
        yield f"So does what is not the same: {others}. These rows do not tell which, so that"
        yield "no line is proposed: state what the source says."
    else:
        yield from _next_best(measured)
    yield from _of_row(measured, inferred, with_bias=plan.cases[0].router_bias)


def _next_best(measured: RouterMeasured) -> Iterator[str]:
    """Yield what the nearest declaration leaves that does not explain all rows."""
    others = [fit for fit in measured.fits if fit.total < measured.total]
    if others:
        nearest = _shortest_of_most(others)
        rows = f"{nearest.total} of {measured.total} rows"
        yield f"The next best, {declaration(nearest.rounding)}, explains {rows}."


def _shortest_of_most(fits: list[RouterFit]) -> RouterFit:
    largest = max(fit.total for fit in fits)
    return _shortest([fit for fit in fits if fit.total == largest])


def _of_row(measured: RouterMeasured, inferred: Inferred, *, with_bias: bool) -> Iterator[str]:
    """Yield what the row has to do with it, and the line to paste if it would change."""
    if inferred.is_stated:
        yield "It rounds as its row states."
        return
    stated = measured.stated
    if stated is None:
        yield "Its row states no roundings: they are assumed, case by case."
    elif stated.total == measured.total:
        yield f"It is more exact than its row states: {declaration(stated.rounding)}."
    else:
        rows = f"explains {stated.total} of {measured.total} rows"
        yield f"Its row is wrong: {declaration(stated.rounding)} {rows}."
    if not inferred.rivals:
        field = "rounding_with_bias" if with_bias else "rounding"
        yield "Paste into the row:"
        yield f"  {field}={declaration(inferred.best.rounding)},"
