"""A member that claims the same bits again is taken at its word."""

from __future__ import annotations

import itertools

import pytest
import torch

from harness.checks.determinism import difference, is_claimed, names_of, other_path
from harness.record.result import Verdict
from moe import guarded_buffers
from moe.all2all import ALL2ALL
from moe.experts import EXPERTS
from moe.experts.torch_loop import TorchLoopExperts
from tests.harness.checks.claims import disclaim
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


def test_one_bit_is_found_and_named(monkeypatch):
    unsteady(monkeypatch)
    found = run(nothing, case(m=8, all2all="local").id)
    assert found.verdict is Verdict.FAILED
    (text,) = [t for t in found.messages if t.startswith("not deterministic: ")]
    assert "1 of 1024 elements differ when the same call is repeated, first [2, 7]: " in text
    first, then = text.split("[2, 7]: ")[1].split("; ")[0].split(", then ")
    assert float(first) != float(then)
    assert abs(float(first) / float(then) - 1) < 2.0**-6


def test_the_repetition_has_the_same_rows_of_nan(monkeypatch):
    """A row of zeros in their place would go to other experts, whose products change shape."""
    seen = []
    real = TorchLoopExperts.apply

    def apply(self, x, routing):
        seen.append((x.codes.float().sum().item(), routing.topk_ids.tolist()))
        return real(self, x, routing)

    monkeypatch.setattr(TorchLoopExperts, "apply", apply)
    nan = case(m=8, dtype="f32", router="sigmoid", logits="nan", all2all="local")
    assert run(nothing, nan.id).verdict is Verdict.PASSED
    first, _, repeated = seen[:3]
    assert repeated == first


@pytest.mark.parametrize(("registry", "name"), [(EXPERTS, "torch_loop"), (ALL2ALL, "local")])
def test_without_the_claim_of_all_bits_may_differ(monkeypatch, registry, name):
    unsteady(monkeypatch)
    disclaim(monkeypatch, registry, name)
    found = run(nothing, case(m=8, all2all="local").id)
    assert not any("not deterministic" in text for text in found.messages)
    assert not is_claimed(case(all2all="local"))


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


def test_a_kernel_that_only_runs_unrecorded_is_named_and_not_called_random():
    text = difference(torch.zeros(2, 3), torch.ones(2, 3))
    paths = names_of({"_activate(a)", "_gemm(b)"}), names_of({"_fused()", "_gemm()"})
    said = other_path(text, *paths, is_wrong=False)
    assert said == (
        "another path: 6 of 6 elements differ when the same call is repeated, first [0, 0]: 0, "
        "then 1; it records no stages, and only then _fused is launched in place of _activate: "
        "both must give the same, so look there first"
    )
    assert other_path(text, *paths, is_wrong=True).endswith(
        "in place of _activate: the recorded call is wrong, too, so look at that first"
    )
    assert other_path(text, {"_gemm"}, {"_gemm"}, is_wrong=False) == text
    assert other_path(text, {"_gemm", "_activate"}, {"_gemm"}, is_wrong=False) == text
