"""Terms of the first wrong stage that are left out are named: blocks of a product, slots, ranks."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from harness.checks.stage_bound import Expected, compare
from harness.diagnosis import which_shares
from harness.diagnosis.evidence import Evidence
from harness.record.result import Verdict
from moe import intermediates, shared
from moe.experts import torch_loop
from moe.experts.torch_loop import TorchLoopExperts
from moe.intermediates import Kept
from tests.harness.diagnosis.wrong_sums import SMALL, SPREAD, evidence_of, shares_of
from tests.harness.execute_ranks import case, run_all

CASE = case(m=24, n=128, k=256, num_experts=4, top_k=2, all2all="local")


def causes_of(plant, case=CASE):
    """What a run of the case says of each call while a mistake is in the stack."""
    with pytest.MonkeyPatch.context() as patch:
        plant(patch)
        (result,) = run_all([case.id])
    assert result.verdict is Verdict.FAILED
    assert all(call.faults == () for call in result.diagnosis.calls)
    return [[cause.cause for cause in call.causes] for call in result.diagnosis.calls]


def columns_cut(rows, part, experts=(0, 1, 2, 3)):
    """Leave columns of a weight with so many rows out, in products of some experts."""

    def plant(patch):
        number = iter(range(10**6))

        def cut(weight):
            w = dequantize(weight)
            if len(w) == rows and next(number) % 4 in experts:
                w = w.clone()
                w[:, part] = 0
            return w

        dequantize = torch_loop.dequantize_weight
        patch.setattr(torch_loop, "dequantize_weight", cut)

    return plant


@pytest.mark.parametrize("quant", ["none", "fp8_block"])
def test_a_block_of_the_first_product(quant):
    wide = CASE.replace(n=192, quant=quant) if quant == "none" else CASE.replace(n=256, quant=quant)
    said = causes_of(columns_cut(2 * wide.n, slice(64, 128)), wide)
    assert said == [["in stage gemm1 the products of k 64-127 are left out"]] * 2


def test_the_end_of_the_second_product_in_one_expert():
    plant = columns_cut(CASE.k, slice(96, None), experts=(2,))
    (said, _) = causes_of(plant, CASE.replace(n=192))
    assert said == ["in stage gemm2 the products of n >= 96 with expert 2 are left out"]


def test_a_slot_of_the_weighted_sum(monkeypatch):
    real = TorchLoopExperts.apply

    def without_slot_1(self, x, routing):
        real(self, x, routing)
        weights = routing.topk_weights.clone()
        weights[:, 1] *= 0.5
        with intermediates.suspended():
            return real(self, x, type(routing)(topk_ids=routing.topk_ids, topk_weights=weights))

    said = causes_of(lambda patch: patch.setattr(TorchLoopExperts, "apply", without_slot_1))
    for texts in said:
        assert texts[0].startswith("in stage combine the shares of slot 1 ")
        assert texts[0].endswith(" count half")


def stage_evidence(stage, actual, terms, over="ranks"):
    call, _ = shares_of(SPREAD)
    value = terms.sum(dim=1)
    expected = Expected(value=value, tolerance=0.01 * value.abs() + 0.01, terms=terms, over=over)
    rows = torch.arange(len(value))
    wrong = compare(stage, actual, expected, {"rows": rows})
    call.stages["ids"] = Kept(value=call.output.routing.topk_ids)
    evidence = evidence_of(call.answer.out, SPREAD)
    subject = SimpleNamespace(case=SPREAD)
    return Evidence(evidence.scene, call, evidence.mismatch, wrong, subject)


def test_a_rank_of_the_sum_over_ranks():
    terms = torch.randn(32, 2, 256, generator=torch.Generator().manual_seed(0))
    twice = terms.sum(dim=1) + terms[:, 1]
    (cause,) = which_shares.explain(stage_evidence("finalize", twice, terms))
    assert cause.cause == "in stage finalize the sums of rank 1 count twice"


def test_all_that_zero_experts_add():
    terms = torch.randn(32, 2, 256, generator=torch.Generator().manual_seed(0))
    said = which_shares.explain(stage_evidence("out", terms[:, 0], terms, "zero experts"))
    assert [c.cause for c in said] == ["in stage out the shares of zero experts are left out"]


def test_columns_of_the_shared_experts():
    real, width = shared.SharedExperts._product, 128

    def cut(self, x, w):
        if x.shape[1] == width:  # the second product
            x = x.clone()
            x[:, 32:64] = 0
        return real(self, x, w)

    two = CASE.replace(m=8, shared_experts=2, n=width // 2, k=96)
    said = causes_of(lambda patch: patch.setattr(shared.SharedExperts, "_product", cut), two)
    assert said[-1] == ["in stage shared the products of n 32-63 are left out"]


def test_a_stage_that_is_no_sum_and_one_with_noise_say_nothing():
    terms = torch.randn(32, 2, 256, generator=torch.Generator().manual_seed(0))
    other = terms.sum(dim=1).roll(1, 1)
    assert list(which_shares.explain(stage_evidence("finalize", other, terms))) == []
    evidence = stage_evidence("activation", terms.sum(dim=1) * 2, terms)
    assert "shares of" not in str(list(which_shares.explain(evidence)))


def test_without_a_subject_only_the_output_is_explained():
    evidence = evidence_of(shares_of(SMALL)[0].answer.out * 2.3)
    assert [c.cause for c in which_shares.explain(evidence)] == ["all shares count 2.3 times"]
