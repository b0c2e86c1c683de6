"""Certify the blocks of a suite: which combinations its cases have, and why others are impossible.

The cases alone are counted. Where none has a combination, the oracle must know why no case can, and
cases drawn at random that have it must all be refused. No torch.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.matrix.covering import verify
from harness.matrix.covering.model import all_targets
from harness.matrix.covering.oracle import Oracle
from harness.matrix.covering.space import Space
from harness.matrix.select import parse
from harness.plan.decided import DecidingJudge
from harness.plan.refusals import Judge
from harness.plan.suites import check_block, model_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.matrix.case import MoETestConfig
    from harness.matrix.covering.model import Model
    from harness.matrix.schema import Axes, Block
    from harness.plan.machine import Machine

_DRAWS = 5  # cases drawn to contradict that a combination is impossible
_ALL_DRAWS = 20_000  # of them for one block


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Hold what was counted for one block."""

    select: str
    space: Space
    in_suite: int  # cases of the suite that are points of this block
    counts: tuple[tuple[str, verify.Count], ...]  # (what is combined, how much of it)
    refused: Counter[str]  # of a full product: its refused points by reason code
    uncovered: tuple[str, ...]  # what a case could have and none has; empty if nothing is promised


def certify(
    block: Block, defaults: Axes, machine: Machine, cases: Sequence[MoETestConfig]
) -> Certificate:
    """Return the certificate of a block. cases: those of the suite that can run."""
    space = Space.of(block, defaults)
    if parse(block.select).is_full:
        return _full(block, space, machine, cases)
    check_block(block, space)
    model = model_of(block, space, DecidingJudge(machine))
    counts = tuple(_counts(block, model, _Excuses(model, space, machine), space, cases))
    is_promised = parse(block.select).strength is not None
    uncovered = [_text(model, literals) for _, count in counts for literals in count.uncovered]
    return Certificate(
        select=block.select,
        space=space,
        in_suite=_points(space, cases),
        counts=counts,
        refused=Counter(),
        uncovered=tuple(dict.fromkeys(uncovered)) if is_promised else (),
    )


def _full(
    block: Block, space: Space, machine: Machine, cases: Sequence[MoETestConfig]
) -> Certificate:
    """Certify a full product: each point is a case or refused."""
    judge, present = Judge(machine), set(cases)
    reasons = [(case, judge(case)[1]) for case in space.cases() if case not in present]
    return Certificate(
        select=block.select,
        space=space,
        in_suite=_points(space, cases),
        counts=(),
        refused=Counter(reason.code for _, reason in reasons if reason),
        uncovered=tuple(case.id for case, reason in reasons if not reason),
    )


def _counts(
    block: Block, model: Model, excuses: _Excuses, space: Space, cases: Sequence[MoETestConfig]
) -> list[tuple[str, verify.Count]]:
    """Count the combinations of the block's own strength, then of each submodel."""
    values = [space.values_of(case) for case in cases]
    strength = min(parse(block.select).strength or 2, len(model.sizes))
    parts = [
        (f"any {strength} of {len(model.sizes)} axes", all_targets(len(model.sizes), strength))
    ]
    for submodel in block.submodels:
        label = f"any {submodel.strength} of {', '.join(submodel.axes)}"
        parts.append((label, space.of_submodel(submodel)))
    return [
        (label, verify.count(values, model.sizes, targets, excuses)) for label, targets in parts
    ]


class _Excuses:
    """Say why no case has a combination, unless a case that is drawn at random has it."""

    def __init__(self, model: Model, space: Space, machine: Machine) -> None:
        self._model, self._space = model, space
        self._oracle = Oracle(model)
        self._judge = Judge(machine)
        self._random = random.Random(0)  # noqa: S311  # equal suites get equal certificates
        self._left = _ALL_DRAWS

    def __call__(self, combination: verify.Combination) -> frozenset[str]:
        codes = self._oracle.reasons(self._model.literals_in(combination))
        return frozenset() if codes and self._is_contradicted(combination) else codes

    def _is_contradicted(self, combination: verify.Combination) -> bool:
        draws = min(_DRAWS, self._left)
        self._left -= draws
        return any(self._judge(self._draw(combination))[1] is None for _ in range(draws))

    def _draw(self, combination: verify.Combination) -> MoETestConfig:
        row = [int(self._random.random() * size) for size in self._model.sizes]
        for factor, value in combination.items():
            row[factor] = value
        return self._space.case(tuple(row))


def _points(space: Space, cases: Sequence[MoETestConfig]) -> int:
    return sum(_is_point(space, case) for case in cases)


def _is_point(space: Space, case: MoETestConfig) -> bool:
    row = tuple(value for value in space.values_of(case) if value is not None)
    return len(row) == len(space.factors) and space.case(row) == case


def _text(model: Model, combination: verify.Combination) -> str:
    return model.text(model.literals_in(combination))
