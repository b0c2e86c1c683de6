"""Both calls of a small right layer, made and observed in this process."""

from __future__ import annotations

import dataclasses
from functools import cache

from harness.checks.check import Observation
from harness.fixtures.layer_under_test import make_subject
from harness.fixtures.phase_timer import Clock
from harness.fixtures.run_calls import run_calls
from tests.harness.execute_ranks import case, context


@cache
def observation(**fields) -> Observation:
    """Two calls of 5 and 3 tokens, unless `fields` say otherwise. Do not write to it."""
    small = {"m": 5, "n": 64, "k": 64, "all2all": "local"}
    rank = context()
    subject = make_subject(case(**{**small, **fields}), rank)
    calls = run_calls(subject, rank, Clock(context=rank))
    return Observation(subject=subject, context=rank, calls=calls)


def with_call(seen: Observation, number: int, **changes) -> Observation:
    """The same, had one call been otherwise."""
    calls = list(seen.calls)
    calls[number] = dataclasses.replace(calls[number], **changes)
    return dataclasses.replace(seen, calls=calls)


def with_output(seen: Observation, number: int, **changes) -> Observation:
    """The same, had one call returned something else. changes: fields of `moe.layer.Output`."""
    output = dataclasses.replace(seen.calls[number].output, **changes)
    return with_call(seen, number, output=output)
