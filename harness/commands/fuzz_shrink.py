"""Draw a batch of cases with hypothesis, and shrink one of them that fails.

A case is shrunk by drawing its batch again, with the verdicts known so far: hypothesis then
simplifies the fields of the case itself, not tensors. The same seed draws the same cases in the
same order. No torch.
"""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from harness.commands import model_strategies
from harness.commands.fuzz_simpler import simpler

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.commands.fuzz_space import Space
    from harness.matrix.case import MoETestConfig

    Fails = Callable[[MoETestConfig], bool]


class TimeIsUp(BaseException):
    """End a shrink. Not an Exception, which hypothesis would treat as a failure of the case."""


class _StillFails(Exception):
    """Tell hypothesis that a simpler case fails as well."""


def batch(space: Space, seed: int, number: int) -> list[MoETestConfig]:
    """Return the cases of one batch, all different; the same for the same arguments.

    Empty if the plan refuses whatever is drawn.
    """
    cases: dict[MoETestConfig, None] = {}

    @hypothesis.seed(_seed_of(seed, number))
    @_settings(space.batch, Phase.generate)
    @given(case=model_strategies.cases_of(space))
    def collect(case: MoETestConfig) -> None:
        cases[case] = None

    with suppress(Unsatisfiable):
        collect()
    return list(cases)


def shrink(
    space: Space,
    seed: int,
    number: int,
    failing: MoETestConfig,
    fails: Fails,
    until: float = math.inf,
) -> MoETestConfig:
    """Return the simplest case that `fails`, starting from `failing`, a case of the batch.

    until: when to stop with the simplest so far, on `time.monotonic`'s clock.
    fails: must always give the same answer for the same case.

    Hypothesis never asks again for a case that it has drawn before `failing`, so its result is
    then simplified field by field.
    """
    simplest = _shrink_by_hypothesis(space, _seed_of(seed, number), failing, fails, until)
    if simplest is None:
        raise AssertionError(f"batch {number} of seed {seed} was drawn again without {failing.id}")
    return shrink_by_field(space, simplest, fails, until)


def _shrink_by_hypothesis(
    space: Space, seed: int, failing: MoETestConfig, fails: Fails, until: float
) -> MoETestConfig | None:
    """Return hypothesis' simplest case, or None if the seed does not draw `failing`.

    Cases before `failing` count as passed, so that no other failure of the batch is shrunk.
    """
    best: MoETestConfig | None = None

    @hypothesis.seed(seed)
    @_settings(space.batch, Phase.generate, Phase.shrink)
    @given(case=model_strategies.cases_of(space))
    def check(case: MoETestConfig) -> None:
        nonlocal best
        if time.monotonic() >= until:
            raise TimeIsUp
        if case == failing or (best is not None and fails(case)):
            best = case
            raise _StillFails

    try:
        check()
    except _StillFails:
        return best
    except TimeIsUp:
        return best or failing
    return None


def shrink_by_field(space: Space, case: MoETestConfig, fails: Fails, until: float) -> MoETestConfig:
    """Return a failing case of which no single field can be made simpler, if time allows."""
    try:
        for tried in simpler(space, case):
            if time.monotonic() >= until:
                break
            if fails(tried):
                return shrink_by_field(space, tried, fails, until)
    except TimeIsUp:
        pass
    return case


def _seed_of(seed: int, number: int) -> int:
    return seed * 2**32 + number


def _settings(count: int, *phases: Phase) -> settings:
    """Return settings under which the seed alone decides what is drawn."""
    return settings(
        database=None,
        deadline=None,
        max_examples=count,
        phases=phases,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
