"""No output is written to again: its caller may still use it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from harness.checks.aliasing import aliased_output
from harness.record.result import Verdict
from moe.experts import EXPERTS
from moe.experts.torch_loop import TorchLoopExperts
from tests.harness.checks.claims import disclaim
from tests.harness.checks.stage_faults import case, run

pytestmark = pytest.mark.usefixtures("one_thread")


def buffers_kept_by(key):
    """Plants a member that gives its output in a buffer which it keeps for each `key` of it."""

    def plant(patch):
        kept, real = {}, TorchLoopExperts.apply

        def apply(self, x, routing):
            out = real(self, x, routing)
            buffer = kept.setdefault(key(out), out.new_empty(64, out.shape[1]))
            return buffer[: len(out)].copy_(out)

        patch.setattr(TorchLoopExperts, "apply", apply)

    return plant


@pytest.mark.parametrize(
    ("key", "later"), [(lambda out: 0, 2), (lambda out: out.shape, 3)], ids=["one", "by size"]
)
@pytest.mark.parametrize("claimed", [True, False])
def test_an_output_that_a_later_call_overwrites_is_told_as_that(monkeypatch, key, later, claimed):
    """Not as wrong values: they were right when the caller got them."""
    if not claimed:
        disclaim(monkeypatch, EXPERTS, "torch_loop")
    found = run(buffers_kept_by(key), case(m=8, all2all="local").id)
    assert found.verdict is Verdict.FAILED
    assert found.messages == (
        f"memory: the output of call {later} shares memory with that of call 1, which its caller "
        "may still use; return a new output from each call",
    )
    assert found.metrics["bound_used"] < 1


@pytest.mark.parametrize("key", [lambda out: 0, lambda out: out.shape], ids=["one", "by size"])
def test_a_buffer_that_does_not_leave_the_layer_is_nobody_s_loss(key):
    """This all2all copies what the experts give."""
    assert run(buffers_kept_by(key), case(m=8).id).verdict is Verdict.PASSED


def test_outputs_that_lie_between_each_other_share_nothing():
    pool = torch.zeros(8, 4, 16, dtype=torch.bfloat16)
    calls = [called(pool[:, 0], 0), called(pool[:5, 1], 1)]
    assert aliased_output(calls, pool[:, 2]) is None
    text = aliased_output(calls, pool[2:, 1])
    assert "the output of call 3 shares memory with that of call 2, which" in text
    assert "call 2 shares memory with that of call 1, which" in aliased_output(
        [*calls[:1], called(pool[:5, 0], 1)], pool[:, 2]
    )


def called(given, number):
    tokens = SimpleNamespace(is_undefined=None)
    output = SimpleNamespace(out=given.clone())
    return SimpleNamespace(returned=given, number=number, output=output, tokens=tokens)
