"""Right backends pass whatever customary roundings they have, and nothing wrong passes with them.

The backends are in rounding_members.py; what their rows state differs from class to class.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import pytest
import torch

from harness import checks, parallel_launch
from harness.checks.alternatives import BEYOND, fits_of, under
from harness.checks.check import Observation
from harness.checks.judge import judge
from harness.checks.output import row_tolerance
from harness.execute import run_case
from harness.fixtures.layer_under_test import make_subject
from harness.fixtures.phase_timer import Clock
from harness.fixtures.run_calls import run_calls
from harness.record.result import Verdict
from moe.assumed_numerics import candidates
from moe.numerics import Numerics
from tests.harness.checks.rounding_members import HERE
from tests.harness.execute_ranks import case, context, run_all
from tests.moe.reference.plain_member import plain_member
from tests.moe.reference.test_layer import IDS, WEIGHTS, X, layer_spec, reference

pytestmark = pytest.mark.usefixtures("one_thread")
# Few columns: the more there are, the less of an output is what roundings before them change.
SMALL = {"m": 16, "n": 32, "k": 32, "num_experts": 8, "top_k": 2}
RIGHT = ("EveryStep", "WideSilu", "WeightInside", "Float32", "EarlySteps", "PartlyStated")
FITTING = {
    "EarlySteps": 'gemm1="model", activated_gate="model", activation="model"',
    "Float32": 'gemm1="f32", activated_gate="f32", activation="f32"',
    "PartlyStated": 'gemm1="model", activated_gate="model", activation="model"',
}


def run(name, **fields):
    return run_case(case(**{**SMALL, **fields}, experts=f"{HERE}:{name}"), context())


@pytest.mark.parametrize("fields", [{}, {"m": 2}, {"top_k": 1}, {"top_k": 8, "m": 33}], ids=str)
@pytest.mark.parametrize("name", RIGHT)
def test_a_right_backend_passes_with_any_customary_roundings(name, fields):
    found = run(name, **fields)
    assert (found.verdict, found.messages) == (Verdict.PASSED, ())


@pytest.mark.parametrize("name", FITTING)
def test_the_numerics_that_fit_are_recorded(name):
    assert FITTING[name] in run(name, m=64).assumed


def test_a_row_that_states_every_place_assumes_nothing():
    assert run_case(case(**SMALL), context()).assumed is None


@pytest.mark.parametrize("name", ["TwoMinds", "LateSlot"])
def test_what_no_single_alternative_explains_fails(name):
    found = run(name, m=64)  # the second call has an odd number of tokens
    assert found.verdict is Verdict.FAILED
    assert found.assumed is not None


def observed(name, **fields):
    one, here = case(**{**SMALL, **fields}, experts=f"{HERE}:{name}"), context()
    subject = make_subject(one, here)
    calls = run_calls(subject, here, Clock(context=here))
    return Observation(subject=subject, context=here, calls=calls)


def test_alternatives_are_compared_in_the_worst_rows():
    seen = observed("Float32", m=64)
    fits = dict(zip(seen.subject.candidates.alternatives, fits_of(seen), strict=True))
    nearest = min(fits, key=fits.__getitem__)
    assert (nearest.gemm1, nearest.activated_gate, nearest.activation) == ("f32", "f32", "f32")
    assert sum(fit <= 1 for fit in fits.values()) < len(fits) / 2


def test_no_alternative_is_tried_for_outputs_that_are_far_from_all():
    seen = observed("EveryStep")
    far = [
        dataclasses.replace(c, output=dataclasses.replace(c.output, out=c.output.out * 1.5))
        for c in seen.calls
    ]
    fits = fits_of(dataclasses.replace(seen, calls=far))
    assert fits[0] == 0.0
    assert set(fits[1:]) == {math.inf}


def test_the_reference_of_an_alternative_rounds_as_it_says():
    seen = observed("EveryStep")
    numbers = range(len(seen.subject.candidates.alternatives))
    assert [under(seen, n).subject.reference.numerics for n in numbers] == list(
        seen.subject.candidates.alternatives
    )
    outs = [under(seen, n).calls[0].answer.out for n in range(4)]
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(outs))


def test_checks_that_do_not_depend_on_the_reference_run_once():
    seen = observed("Float32", m=64)
    counts = dict.fromkeys(("members", "output"), 0)

    def counted(check):
        def run(observation):
            counts[check.name] += 1
            return check.run(observation)

        return dataclasses.replace(check, run=run) if check.name in counts else check

    table = [counted(check) for check in checks.all_checks()]
    found = judge(seen, table, Clock(context=seen.context))
    assert found.findings == tuple(f for f in found.findings if f.verdict is Verdict.PASSED)
    assert counts["members"] == 1 < counts["output"]


def test_one_alternative_must_explain_all_ranks():
    """Each rank is right under numerics of its own, so with the same ones on both, one is wrong."""
    alone = case(**{**SMALL, "m": 64}, experts="own", layer=f"{HERE}:OneRank")
    assert run_case(alone, context()).verdict is Verdict.PASSED
    results = parallel_launch(2, run_all, [alone.replace(dp_size=2).id])
    assert Verdict.FAILED in [result.verdict for (result,) in results]


SCHEMES = [
    ("model", "model"),
    ("fp8_block", "fp8_group"),
    ("fp8_tensor", "fp8_static"),
    ("int8_channel", "int8_token"),
]


def ball_used(scheme):
    """Return how much of the nearest ball's row tolerance right members use, by numerics."""
    spec = layer_spec(scheme)
    tried = candidates(Numerics(), spec.scheme, "bf16", "cpu")
    static = torch.tensor(5.0 / 448), torch.tensor(9.0 / 448)
    scales = dict(zip(("a1_scale", "a2_scale"), static, strict=True))
    ref = reference(spec, tried.ball)
    answers = [ref.with_numerics(ball)(X, IDS, WEIGHTS, **scales) for ball in tried.balls]
    used = {}
    for exact in itertools.chain.from_iterable(map(kinds_of, tried.alternatives)):
        out = plain_member(X, IDS, WEIGHTS, ref.weights, exact, scheme[1], static)
        parts = [(out - a.out).norm(dim=1) / row_tolerance(a) for a in answers]
        used[exact] = min(float(part.amax()) for part in parts)
    return used


def kinds_of(numerics):
    """Yield the members that an alternative stands for: with and without the later roundings."""
    known = numerics.weight_dtype != "either"
    for late in ("f32", "model"):
        for dtype in (numerics.weight_dtype,) if known else ("f32", "model"):
            yield dataclasses.replace(numerics, expert=late, combine=late, weight_dtype=dtype)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme[1])
def test_no_right_member_is_beyond_the_balls(scheme):
    """So outputs that are BEYOND all balls are right under no alternative."""
    used = ball_used(scheme)
    assert len(used) > 50
    assert max(used.values()) < 1 < BEYOND


def test_a_scale_of_all_rows_does_not_follow_the_weight_so_one_ball_is_not_enough():
    assert len(candidates(Numerics(), layer_spec(SCHEMES[2]).scheme, "bf16", "cpu").balls) == 2
    assert len(candidates(Numerics(), layer_spec(SCHEMES[3]).scheme, "bf16", "cpu").balls) == 1
