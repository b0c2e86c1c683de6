"""In a rank: plant the mistake that a case's seed names, run the case as always, take it out.

Beside the verdict it reports what a fixed tolerance would have said of the very same outputs, as
the share of elements beyond 0.03 + 0.03 * |expected|: once at our inputs' size, and once with
outputs and reference shrunk to the rms that the rule's own test data gives.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import TYPE_CHECKING

import pytest

from harness import execute
from harness.fixtures import run_calls
from tests.mistakes import (
    mistakes_activations,
    mistakes_all2all,
    mistakes_calls,
    mistakes_experts,
    mistakes_functions,
    mistakes_groups,
    mistakes_kernels,
    mistakes_latent,
    mistakes_layer,
    mistakes_lora,
    mistakes_on_gpu,
    mistakes_ranks,
    mistakes_routing,
    mistakes_scales,
    mistakes_step,
    mistakes_values,
    mistakes_weighing,
    mistakes_weights,
    mistakes_widths,
    mistakes_wiring,
    mistakes_with_replicas,
    mistakes_world,
    mistakes_writes,
)
from tests.mistakes.mistake import around, planted_by

if TYPE_CHECKING:
    from harness.fixtures.layer_call import Call
    from harness.fixtures.rank_context import RankContext
    from harness.matrix.case import MoETestConfig
    from harness.record.result import RankResult

TOLERANCE = 3e-2
OWN_RMS = 0.0094  # of the output on the rule's own data: 32 tokens, K = 2048, N = 1024
FAMILIES = (
    mistakes_routing,
    mistakes_ranks,
    mistakes_experts,
    mistakes_scales,
    mistakes_values,
    mistakes_functions,
    mistakes_kernels,
    mistakes_activations,
    mistakes_layer,
    mistakes_weights,
    mistakes_widths,
    mistakes_weighing,
    mistakes_groups,
    mistakes_latent,
    mistakes_lora,
    mistakes_wiring,
    mistakes_with_replicas,
    mistakes_all2all,
    mistakes_world,
    mistakes_step,
    mistakes_calls,
    mistakes_writes,
    mistakes_on_gpu,
)


def run_case(case: MoETestConfig, context: RankContext) -> RankResult:
    """Collective. The case's seed follows from its mistake's name; 0 plants none."""
    calls: list[Call] = []

    def recorded(real, *args, **kw):
        calls.append(real(*args, **kw))
        return calls[-1]

    with pytest.MonkeyPatch.context() as patch:
        around(patch, run_calls, "run_call", recorded)
        if case.seed:
            planted_by(case.seed)(patch)
        result = execute.run_case(case, context)
    return dataclasses.replace(result, metrics={**result.metrics, **beyond(calls)})


def run_undeclared(case: MoETestConfig, context: RankContext) -> RankResult:
    """As `run_case`, of members whose rows state no numerics. Collective."""
    options = {**context.options, "undeclared": True}
    return run_case(case, dataclasses.replace(context, options=options))


def beyond(calls: list[Call]) -> dict[str, float]:
    """The largest share of one call's elements that a fixed tolerance rejects, at both sizes."""
    found = {"beyond_at_our_size": 0.0, "beyond_at_its_size": 0.0}
    for call, name in itertools.product(calls, found):
        expected = call.answer.out.float()
        got = call.output.out.float()
        if not expected.numel():
            continue
        rms = float(expected.square().mean().sqrt())
        shrunk = 1.0 if name == "beyond_at_our_size" or not rms else OWN_RMS / rms
        apart = (got - expected).abs() * shrunk
        inside = apart <= TOLERANCE + TOLERANCE * expected.abs() * shrunk  # NaN is outside
        found[name] = max(found[name], 1 - float(inside.float().mean()))
    return found
