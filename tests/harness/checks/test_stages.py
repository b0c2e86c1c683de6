"""Each planted fault is named by its own stage first; a right stack has no finding."""

from __future__ import annotations

import pytest

from harness.checks import stages
from harness.checks.check import FAILED_CALLS
from harness.record.result import Verdict
from moe.experts import triton
from moe.quant import QUANT
from tests.harness.checks import stage_faults, stage_members
from tests.harness.checks.stage_faults import case, run, stages_of

pytestmark = pytest.mark.usefixtures("one_thread")
WORKSPACE = "tests.harness.checks.stage_members:PersistentWorkspace"
STATIC = {"experts": "triton", "quant": "fp8_tensor"}
ALONE = [
    (stage_faults.input_codes, "input", {"quant": "int8_channel"}),
    (stage_faults.first_product, "gemm1", {"experts": "triton"}),
    (stage_faults.activation, "activation", {"experts": "triton"}),
    (stage_faults.second_codes, "second", {"experts": "triton", "quant": "fp8_block"}),
    (stage_faults.second_scales, "second", {"experts": "triton", "quant": "int8_channel"}),
    (stage_faults.second_product, "gemm2", {"experts": "triton", "n": 256}),
    # A static scale is known, whether it is handed out or not.
    (stage_faults.second_codes_without_a_scale, "second", STATIC),
    (stage_faults.second_product_without_a_scale, "gemm2", STATIC | {"n": 256}),
    (stage_faults.weighted_sum, "combine", {"experts": "triton"}),
    (stage_faults.sum_between_ranks, "finalize", {}),
    (stage_faults.shared_output, "shared", {"shared_experts": 1}),
    (stage_faults.sum_over_tp, "out", {}),
]


@pytest.mark.parametrize(
    ("plant", "stage", "fields"), ALONE, ids=[plant.__name__ for plant, _, _ in ALONE]
)
def test_the_first_wrong_stage_is_the_planted_one(plant, stage, fields, monkeypatch):
    if "n" in fields:
        monkeypatch.setattr(stage_faults, "N", fields["n"])
    found = run(plant, case(**fields).id)
    assert found.verdict is Verdict.FAILED
    # The planted quantizer serves the intermediate, too.
    assert stages_of(found) == ([stage, "second"] if stage == "input" else [stage])


LOOPED = [(quant, "torch_loop") for quant in QUANT.rows]


@pytest.mark.parametrize(("quant", "experts"), [*LOOPED, ("none", "torch_grouped")])
def test_a_right_stack_has_no_finding(quant, experts):
    for fields in ({}, {"shared_experts": 1}, {"m": 40, "top_k": 3}):
        found = run(stage_faults.nothing, case(quant=quant, experts=experts, **fields).id)
        assert (found.verdict, found.messages) == (Verdict.PASSED, ())


def test_stages_inside_are_judged_beside_rows_whose_logits_are_nan(monkeypatch):
    monkeypatch.setattr(stage_faults, "N", 256)  # unlike K: the second product has K rows
    beside = {"experts": "triton", "n": 256, "logits": "nan", "m": 8}
    for plant, stage in ((stage_faults.first_product, "gemm1"), (stage_faults.activation, None)):
        found = run(plant, case(**beside).id)
        assert stages_of(found) == [stage or "activation"]
    found = run(stage_faults.nothing, case(**beside).id)
    assert (found.verdict, found.messages) == (Verdict.PASSED, ())


def test_a_stage_that_is_wrong_at_the_first_size_only_is_found(monkeypatch):
    """Another path may be taken for many rows than for few; the output's bound allows this."""
    real = triton.grouped_gemm

    def large_only(x, w, *args, **options):
        out = real(x, w, *args, **options)
        first = (
            len(out) >= 10 and w.codes.shape[1] == 2 * stage_faults.N
        )  # five tokens, two experts each
        return stage_faults.one_more(out) if first else out

    monkeypatch.setattr(triton, "grouped_gemm", large_only)
    found = run(stage_faults.nothing, case(experts="triton").id)
    assert stages_of(found) == ["gemm1"]
    (call,) = found.diagnosis.calls
    assert call.call == 0
    assert found.diagnosis.every_call  # the second's stages have no finding


@pytest.mark.parametrize("fields", [{}, {"quant": "int8_channel"}, {"m": 1}])
def test_a_backend_may_keep_its_workspace_from_call_to_call(fields):
    """The second call writes where the first one's stages and output were."""
    found = run(stage_faults.nothing, case(**{"experts": WORKSPACE, **fields}).id)
    assert (found.verdict, found.messages) == (Verdict.PASSED, ())


def test_a_backend_with_a_workspace_is_looked_at_stage_by_stage(monkeypatch):
    """In the first call, too, long after its buffers have been written again."""
    real = stage_members.PersistentWorkspace.first_product

    def large_only(self, values, ids):
        real(self, values, ids)
        if len(values) == 5:
            self.gate_up[0, 0] += 1

    monkeypatch.setattr(stage_members.PersistentWorkspace, "first_product", large_only)
    found = run(stage_faults.nothing, case(experts=WORKSPACE).id)
    assert [call.call for call in found.diagnosis.calls] == [0]
    assert stages_of(found) == ["gemm1"]


def test_all_rows_of_the_failed_calls_that_are_explained_are_judged_and_of_no_others(monkeypatch):
    """A case of one token has many calls; the diagnosis examines the first failed ones."""
    judged = []
    real = stages.inside

    def noting(subject, call, context, *, all_rows):
        judged.append((call.number, all_rows))
        return real(subject, call, context, all_rows=all_rows)

    monkeypatch.setattr(stages, "inside", noting)
    found = run(stage_faults.nothing, case(m=1, experts="benchmarks.diagnosis:Scrambled").id)
    assert len(found.diagnosis.failed) > FAILED_CALLS
    assert [call.call for call in found.diagnosis.calls] == [0, 1, 2]
    assert judged == [(0, True), (2, True)]  # the second call is judged together with other ranks
