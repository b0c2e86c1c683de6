"""What poisoned buffers and recorded stages hide shows in a plain call, if the run asks for one."""

from __future__ import annotations

import dataclasses

import pytest

from harness.checks.plain_call import OPTION
from harness.execute import run_case
from harness.record.result import Verdict
from moe import guarded_buffers
from moe.experts import EXPERTS
from moe.experts.torch_loop import TorchLoopExperts
from tests.harness.checks.claims import disclaim
from tests.harness.execute_ranks import case, context

pytestmark = pytest.mark.usefixtures("one_thread")
POINT = case(m=8, all2all="local")


def verdict_of(*, asked: bool):
    here = dataclasses.replace(context(), options={OPTION: asked})
    return run_case(POINT, here)


def wrong_when_plain(monkeypatch, factor: float):
    """A member that is right only while buffers are poisoned."""
    real = TorchLoopExperts.apply

    def apply(self, x, routing):
        out = real(self, x, routing)
        return out * factor if guarded_buffers._live is None else out

    monkeypatch.setattr(TorchLoopExperts, "apply", apply)


def test_a_right_layer_passes_with_a_plain_call():
    assert verdict_of(asked=True).verdict is Verdict.PASSED


def test_bits_that_only_a_plain_call_changes_are_reported(monkeypatch):
    wrong_when_plain(monkeypatch, 1 + 2.0**-7)
    assert verdict_of(asked=False).verdict is Verdict.PASSED
    result = verdict_of(asked=True)
    assert result.verdict is Verdict.FAILED
    (text,) = result.messages
    assert text.startswith("a plain call, unpoisoned and unrecorded, differs from the first: ")
    assert text.endswith("; to repeat it: --plain-call")


def test_without_the_claim_of_the_same_bits_a_plain_call_is_judged_as_any(monkeypatch):
    disclaim(monkeypatch, EXPERTS, "torch_loop")
    with monkeypatch.context() as patch:
        wrong_when_plain(patch, 1 + 2.0**-9)  # less than bf16 can hold
        assert verdict_of(asked=True).verdict is Verdict.PASSED
    wrong_when_plain(monkeypatch, 1.25)
    result = verdict_of(asked=True)
    assert result.verdict is Verdict.FAILED
    assert any("wrong only in a plain call, " in text for text in result.messages)
