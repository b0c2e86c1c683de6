"""At few tokens, all calls together see what each one alone must let pass."""

from __future__ import annotations

import dataclasses
import re
from types import SimpleNamespace

import pytest
import torch

from harness.checks import pooled_calls, stages
from harness.checks.output import judge
from harness.fixtures import expected_answers
from harness.record.result import Verdict
from moe.experts.torch_loop import TorchLoopExperts
from moe.reference.result import Answer
from tests.harness.checks.stage_faults import case, nothing, run

pytestmark = pytest.mark.usefixtures("one_thread")


def calls_of(count: int, off: float, *, variance: float = 1.0, flips: float = 100.0):
    """Calls of one row each whose distance from the reference is `off`."""
    calls = []
    for _ in range(count):
        out = torch.full((1, 64), 10.0)
        answer = Answer(
            out=out,
            variance=torch.full((1,), variance),
            flips=torch.full((1,), flips),
            amax1=out.new_zeros(()),
            amax2=out.new_zeros(()),
        )
        output = SimpleNamespace(out=out + off / 8)
        calls.append(SimpleNamespace(output=output, answer=answer, tokens=SimpleNamespace(x=out)))
    return calls


def test_the_bound_of_all_is_tighter_than_each_one_s():
    """10.5 of a bound of 12 in each row: many such rows are no chance."""
    many = calls_of(16, 10.5)
    assert all(judge(c.output.out, c.answer).verdict is Verdict.PASSED for c in many)
    text = pooled_calls.message(many)
    assert text is not None
    assert re.fullmatch(r"the total error of 16 tokens in 16 calls is [\d.]+x its limit", text)
    assert pooled_calls.message(calls_of(16, 1.2)) is None


@pytest.mark.parametrize(
    ("verdict", "check", "applies"),
    [
        (Verdict.PASSED, "output", True),
        (Verdict.FAILED, "output", False),
        (Verdict.ERROR, "output", False),  # of another shape: it has no distance
        (Verdict.FAILED, stages.NAMES[0], True),
    ],
)
def test_only_outputs_that_could_be_judged_are_judged_together(verdict, check, applies):
    finding = SimpleNamespace(verdict=verdict, check=check)
    assert pooled_calls.applies(SimpleNamespace(findings=[finding])) is applies


def test_the_flips_of_one_call_may_hang_together():
    """Over one call the room is that of all its flips at once; it shrinks with further calls."""
    shares = [pooled_calls.tolerance_used(calls_of(count, 5.0)) for count in (1, 4, 16)]
    assert shares == sorted(shares)
    assert shares[0] < 0.7 * shares[-1]


def test_noise_as_declared_stays_inside_and_nan_does_not():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        calls = calls_of(6, 0.0, flips=0.0)
        for call in calls:
            noise = torch.randn(1, 64, generator=generator) / 8
            call.output.out = call.output.out + noise
        assert pooled_calls.tolerance_used(calls) < 1
    broken = calls_of(6, 0.0)
    broken[3].output.out[0, 5] = float("nan")
    assert pooled_calls.message(broken) is not None


def test_a_small_steady_error_fails_a_case_of_one_token(monkeypatch):
    """Each row is allowed its flips; the same shift in all rows is none."""
    wide = {"m": 1, "quant": "fp8_block", "n": 256, "k": 256}
    real = expected_answers._answer

    def doubtful(*args):
        answer = real(*args)
        size = answer.out.square().sum(dim=1)
        return dataclasses.replace(answer, flips=size * 0.04**2)

    monkeypatch.setattr(expected_answers, "_answer", doubtful)
    assert run(nothing, case(**wide).id).verdict is Verdict.PASSED
    apply = TorchLoopExperts.apply
    uneven = 1 + 0.03 * (1 - 2 * (torch.arange(wide["k"]) % 2)).bfloat16()  # along no row
    monkeypatch.setattr(TorchLoopExperts, "apply", lambda self, *a: apply(self, *a) * uneven)
    found = run(nothing, case(**wide).id)
    assert any("the total error of 19 tokens" in text for text in found.messages), found.messages
    assert not any("rows wrong" in text for text in found.messages)
