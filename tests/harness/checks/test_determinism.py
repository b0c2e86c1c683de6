"""A member that claims the same bits again is taken at its word; no output is written to again."""

from __future__ import annotations

import dataclasses
import itertools
from types import SimpleNamespace

import pytest
import torch

from harness.checks.aliasing import aliased_output
from harness.checks.determinism import difference, is_claimed
from harness.record.result import Verdict
from moe import guarded_buffers
from moe.all2all import ALL2ALL
from moe.experts import EXPERTS
from moe.experts.torch_loop import TorchLoopExperts
from tests.harness.checks.stage_faults import case, nothing, run

pytestmark = pytest.mark.usefixtures("one_thread")


def unsteady(monkeypatch):
    """From the third call on, which is the repetition, one element's last bit is another."""
    calls = itertools.count()
    real = TorchLoopExperts.apply

    def apply(self, x, routing):
        out = real(self, x, routing)
        if next(calls) >= 2:
            bits = out.view(torch.int16)
            bits[2, 7] += 1
        return out

    monkeypatch.setattr(TorchLoopExperts, "apply", apply)


def disclaim(monkeypatch, registry, name):
    row = dataclasses.replace(registry.row(name), deterministic=False)
    real = type(registry).row
    monkeypatch.setattr(
        type(registry), "row", lambda self, asked: row if asked == name else real(self, asked)
    )


def test_one_bit_is_found_and_named(monkeypatch):
    unsteady(monkeypatch)
    found = run(nothing, case(m=8, all2all="local").id)
    assert found.verdict is Verdict.FAILED
    (text,) = [t for t in found.messages if t.startswith("not deterministic: ")]
    assert "1 of 1024 elements differ when the same call is repeated, first [2, 7]: " in text
    first, then = text.split("[2, 7]: ")[1].split("; ")[0].split(", then ")
    assert float(first) != float(then)
    assert abs(float(first) / float(then) - 1) < 2.0**-6


@pytest.mark.parametrize(("registry", "name"), [(EXPERTS, "torch_loop"), (ALL2ALL, "local")])
def test_without_the_claim_of_all_bits_may_differ(monkeypatch, registry, name):
    unsteady(monkeypatch)
    disclaim(monkeypatch, registry, name)
    found = run(nothing, case(m=8, all2all="local").id)
    assert not any("not deterministic" in text for text in found.messages)
    assert not is_claimed(case(all2all="local"))


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


def changed_by(write):
    """Plants a member that, from its third call on, does something to what it must leave alone."""

    def plant(patch):
        calls, real, given = itertools.count(), TorchLoopExperts.apply, []

        def apply(self, x, routing):
            out = real(self, x, routing)
            if next(calls) >= 2:
                write(given[-1], x)
            given.append(out)
            return out

        patch.setattr(TorchLoopExperts, "apply", apply)

    return plant


def one_past_the_end(earlier, x):
    buffer = guarded_buffers.empty((4,), dtype=torch.int8, device=x.codes.device)
    buffer.as_strided((5,), (1,))[4] = 0


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (
            lambda earlier, x: earlier.zero_(),
            "memory: the output of call 2 was changed by a later one, which its caller may still "
            "use; return a new output from each call",
        ),
        (
            lambda earlier, x: x.codes.mul_(2),
            "memory: the layer changed its input x, when the first call is repeated",
        ),
        (
            one_past_the_end,
            "memory: 1 bytes after a buffer of 4 bytes were overwritten, when the first call is "
            "repeated",
        ),
    ],
    ids=["earlier output", "input", "guard"],
)
def test_what_the_last_call_writes_on_is_seen_too(write, text):
    found = run(changed_by(write), case(m=8, all2all="local").id)
    assert (found.verdict, found.messages) == (Verdict.FAILED, (text,))
    assert found.metrics["bound_used"] < 1


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
    return SimpleNamespace(returned=given, number=number, output=SimpleNamespace(out=given.clone()))


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_a_member_that_goes_wrong_later_is_seen_without_any_claim(monkeypatch, value):
    calls, real = itertools.count(), TorchLoopExperts.apply

    def apply(self, x, routing):
        out = real(self, x, routing)
        return out if next(calls) < 2 else torch.full_like(out, value)

    monkeypatch.setattr(TorchLoopExperts, "apply", apply)
    disclaim(monkeypatch, EXPERTS, "torch_loop")
    found = run(nothing, case(m=8, all2all="local").id)
    assert found.verdict is Verdict.FAILED
    (text,) = found.messages
    assert text.startswith("correct at first, wrong when the same call is repeated: ")


def test_who_claims_it():
    claims = {row.name: row.deterministic for row in EXPERTS}
    assert claims["flashinfer_cutlass"] is False  # its fused sum uses atomics
    assert all(claims[name] for name in ("triton", "torch_loop", "torch_grouped"))
    assert is_claimed(case(all2all="local"))
    assert is_claimed(case())


def test_bits_are_compared_and_nothing_less():
    x = torch.tensor([[0.0, 1.0], [float("nan"), 2.0]], dtype=torch.bfloat16)
    assert difference(x, x.clone()) is None
    negative = x.clone()
    negative[0, 0] = -0.0
    assert "1 of 4 elements differ" in difference(x, negative)
    assert "[0, 0]: 0, then -0" in difference(x, negative)
    assert "the output was [2, 2] torch.bfloat16 and is [1, 2]" in difference(x, x[:1])
    assert "is [2, 2] torch.float32 when repeated" in difference(x, x.float())
