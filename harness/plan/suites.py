"""Choose the cases of a suite for a machine: blocks that select some points of their product.

What can be combined follows from the refusals: a combination counts only if a case that has it can
run on the machine. A value that no such case has is kept in one refused case, which names the
reason. No torch.
"""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

from harness.matrix import expand
from harness.matrix.covering.generate import cover
from harness.matrix.covering.least_work import with_least_work
from harness.matrix.covering.model import taking
from harness.matrix.covering.oracle import Oracle
from harness.matrix.covering.pict import pict
from harness.matrix.covering.space import Space
from harness.matrix.select import parse
from harness.matrix.suite_size import check_combinations
from harness.plan.decided import DecidingJudge
from harness.plan.work import read, work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from harness.matrix.case import MoETestConfig
    from harness.matrix.case_list import CaseList
    from harness.matrix.covering.model import Factors, Literals, Model, Row
    from harness.matrix.expand import Choose
    from harness.matrix.schema import Axes, Block, MatrixConfig
    from harness.matrix.yaml_positions import Path
    from harness.plan.machine import Machine

_DRAWS = 100  # points drawn in vain before one is completed value by value
_STEADY = 300  # rows in sequence that teach no exclusion before constraints are written
_ROWS = 2_000  # rows after which they are written anyway


def cases(
    config: MatrixConfig, name: str, machine: Machine, after: Sequence[MoETestConfig] = ()
) -> CaseList:
    """Return the cases of a suite on a machine, including those that are refused.

    after: further cases. Raises UsageError for an unknown suite or member.
    """
    return expand.expand(config, name, _choose(machine), after)


def origins(config: MatrixConfig, name: str, machine: Machine) -> dict[MoETestConfig, Path]:
    """Return the cases of `cases`, each with the place that it has in the matrix file."""
    return expand.origins(config, name, _choose(machine))


def _choose(machine: Machine) -> Choose:
    """Return what chooses the cases of blocks for a machine."""
    judge = DecidingJudge(machine)

    def choose(
        block: Block, defaults: Axes, before: Iterator[MoETestConfig]
    ) -> Iterator[MoETestConfig]:
        return chosen(block, Space.of(block, defaults), judge, before)

    return choose


def chosen(
    block: Block, space: Space, judge: DecidingJudge, before: Iterable[MoETestConfig]
) -> Iterator[MoETestConfig]:
    """Yield the cases that a block, which does not select all, adds to those before it."""
    select = parse(block.select)
    if select.strength is not None:
        check_block(block, space)
    model = model_of(block, space, judge)
    oracle = Oracle(model)
    base = oracle.complete(())
    if base is None:  # nothing can run: one case tells why
        yield space.case(tuple(0 for _ in model.sizes))
    elif select.count is not None:
        yield from map(space.case, _drawn(model, oracle, select.count, select.seed))
    else:
        parts = _covering(before, space, model, judge)
        rows = cover(model, oracle, parts)
        if block.least_work:
            rows = with_least_work(rows, parts, oracle, _work_of(space, oracle, judge.machine))
        yield from (space.case(model.row(row)) for row in rows)
        yield from (space.case(model.row(row)) for row in _impossible(model, oracle, base))


def _covering(
    before: Iterable[MoETestConfig], space: Space, model: Model, judge: DecidingJudge
) -> list[dict[int, int]]:
    """Return what cases that can run have of a space's values, for each that has some."""
    parts = ((case, model.partial(space.values_of(case))) for case in before)
    return [part for case, part in parts if part and judge.refused(case) is None]


def _work_of(space: Space, oracle: Oracle, machine: Machine) -> Callable[[Literals], float]:
    """Return what estimates the work of the case that a complete row stands for.

    It is estimated once per values of the axes that it reads.
    """
    backend = taking(space.reading({"experts"}))
    take: dict[Literals, Callable[[Literals], Literals]] = {}
    known: dict[Literals, float] = {}

    def estimate(row: Literals) -> float:
        named = backend(row)
        if named not in take:
            experts = space.case(oracle.model.row(row)).experts
            take[named] = taking(space.reading(read(experts, machine)))
        values = take[named](row)
        if values not in known:
            known[values] = work(space.case(oracle.model.row(row)), machine)
        return known[values]

    return estimate


def model_of(block: Block, space: Space, judge: DecidingJudge) -> Model:
    """Return the model of a block. Without a strength of its own, pairs are its targets."""
    return space.model(_targets(block, space), judge.refused)


def check_block(block: Block, space: Space) -> None:
    """Raise UsageError if a block has too many combinations to be searched."""
    sizes = tuple(map(len, space.factors.values()))
    check_combinations(sizes, _targets(block, space), block.select)


def _targets(block: Block, space: Space) -> tuple[Factors, ...]:
    return space.targets(parse(block.select).strength or 2, block.submodels)


def _impossible(model: Model, oracle: Oracle, base: Literals) -> Iterator[Literals]:
    """Yield a row for each value that no accepted row has; its other values are those of `base`."""
    for factor, literal in itertools.product(range(len(model.sizes)), range(sum(model.sizes))):
        if literal in model.literals[factor] and oracle.excludes((literal,)):
            yield (*base[:factor], literal, *base[factor + 1 :])


def _drawn(model: Model, oracle: Oracle, count: int, seed: int) -> list[Row]:
    """Return accepted rows drawn at random: `count`, or fewer if there are no more."""
    rng = random.Random(seed)  # noqa: S311  # equal seeds must draw equal cases
    rows: dict[Row, None] = {}
    repeated, tries = 0, _DRAWS
    while len(rows) < count and repeated < _DRAWS:
        row = _draw(model, rng, tries)
        if row is None:  # few points can run: drawing as long again would likely be in vain, too
            row, tries = _completed(model, oracle, rng), tries // 2
        repeated = repeated + 1 if row in rows else 0
        rows[row] = None
    return list(rows)


def _draw(model: Model, rng: random.Random, tries: int) -> Row | None:
    """Return one accepted row, drawn from all rows; None if each of some tries was refused."""
    for _ in range(tries):
        row = tuple(int(rng.random() * size) for size in model.sizes)
        if model.refuse(row) is None:
            return row
    return None


def _completed(model: Model, oracle: Oracle, rng: random.Random) -> Row:
    """Return one accepted row of a model that has some, its values taken in random order."""
    completed = oracle.complete((), prefer=lambda f, _: _shuffled(model.literals[f], rng))
    assert completed is not None, "the caller knows an accepted row"
    return model.row(completed)


def _shuffled(literals: range, rng: random.Random) -> list[int]:
    return sorted(literals, key=lambda _: rng.random())


def pict_of(block: Block, defaults: Axes, machine: Machine) -> str:
    """Return a block in PICT's language, with the refusals on a machine as constraints."""
    space = Space.of(block, defaults)
    check_block(block, space)
    model = model_of(block, space, DecidingJudge(machine))
    oracle = Oracle(model)
    for target in model.targets:
        for combination in model.tuples(target):
            oracle.complete(combination)
    note = _precision(_until_steady(model, oracle))
    submodels = [
        ([key for key in space.factors if key in submodel.axes], submodel.strength)
        for submodel in block.submodels
    ]
    return pict(model, oracle.exclusions(), submodels, comments=[note])


def _until_steady(model: Model, oracle: Oracle) -> int:
    """Complete random rows; return how many of the last ones in sequence were accepted at once.

    It ends after _STEADY such rows, or after _ROWS rows of a model with many rare refusals.
    """
    rng = random.Random(0)  # noqa: S311  # equal models must get equal files
    accepted = 0
    for _ in range(_ROWS):
        if accepted == _STEADY or oracle.complete(()) is None:
            break
        known = oracle.learnt
        oracle.complete((), prefer=lambda f, _: _shuffled(model.literals[f], rng))
        accepted = accepted + 1 if oracle.learnt == known else 0
    return accepted


def _precision(accepted: int) -> str:
    """Return how far a file's constraints can be relied on, as a comment."""
    if accepted == _STEADY:
        return f"each of {_STEADY} rows drawn at random that these constraints allow can run"
    return (
        f"of {_ROWS} rows drawn at random, only the last {accepted} in sequence needed no further "
        "constraint: a row that these constraints allow may still be refused"
    )
