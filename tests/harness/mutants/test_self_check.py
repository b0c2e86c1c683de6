"""The self-proof: wrong answers are caught, a bound that is too loose is not hidden."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness import execute
from harness.checks.output import judge
from harness.execute import run_case
from harness.fixtures.layer_under_test import numerics_of
from harness.fixtures.rank_context import Caches
from harness.mutants import HYPOTHESES, Hypothesis, NotApplicable, named
from harness.mutants.self_check import MEMBERS, prove, rejected
from harness.record.proof import Outcome, Proof
from harness.record.rank_merge import merge
from harness.record.result import RankResult, Verdict
from moe.quant import QUANT
from tests.harness.mutants.samples import ALONE, case, scene

CAUGHT, MISSED = Outcome.CAUGHT, Outcome.MISSED
NAMES = {h.name for h in HYPOTHESES if h.battery}


def outcomes(proofs):
    return {proof.name: proof.outcome for proof in proofs}


def loosened(right, factor):
    """The scene with a bound that is so many times as wide, everywhere."""
    wide = {name: getattr(right.answer, name) * factor**2 for name in ("variance", "flips")}
    wide["along"] = right.answer.along * torch.tensor(
        [[factor**2], [factor**2], [factor], [factor]]
    )
    return dataclasses.replace(right, answer=dataclasses.replace(right.answer, **wide), memo={})


LAYOUTS = [{}, {"tp_size": 2}, {"dp_size": 2, "use_ep": True}]
BIASED = {"tp_size": 2, "expert_bias": True}  # where each mistake with a bias can exist


@pytest.mark.parametrize("layout", [*LAYOUTS, BIASED])
@pytest.mark.parametrize("quant", QUANT.rows)
def test_every_wrong_answer_that_can_exist_is_caught(quant, layout):
    words = outcomes(prove(scene(case(quant=quant, shared_experts=1, m=8, **layout))))
    assert set(words) == NAMES
    not_here = {"rank_missing", "rank_twice"} if not layout else set()
    biases = {"first_bias_missing", "second_bias_missing", "second_bias_on_each_rank"}
    not_here |= biases if "expert_bias" not in layout else set()
    not_here |= {"scale_shifted"} if quant == "none" else set()
    not_here |= {"shared_gate_ignored", "zero_experts_missing", "limit_missing"}
    not_here |= {"latent_not_entered", "latent_not_left", "lora_missing", "lora_second_missing"}
    not_here |= {"stale_replica_map"}
    assert {name for name, word in words.items() if word != CAUGHT} == not_here


def test_what_is_no_wrong_answer_here_says_why():
    proofs = {proof.name: proof for proof in prove(scene(case(m=1, top_k=1)))}
    not_here = Outcome.NOT_APPLICABLE
    assert proofs["rolled"] == Proof(
        name="rolled", outcome=not_here, explanation="rolling 1 row(s) by 1 changes none"
    )
    assert proofs["weights_twice"] == Proof(
        name="weights_twice",
        outcome=not_here,
        explanation="at top-k 1 a renormalised weight is one",
    )
    assert proofs["zeros"].outcome is proofs["expert_dropped"].outcome is CAUGHT


def test_a_loosened_bound_is_seen_and_the_case_is_vacuous():
    right = scene(case(m=8))
    proofs = prove(loosened(right, 1e5))
    missed = {name for name, word in outcomes(proofs).items() if word is MISSED}
    assert {name for name, word in outcomes(prove(right)).items() if word is CAUGHT} == missed
    cures = {proof.name: proof.explanation for proof in proofs}
    assert cures["weights_ignored"] == "top-k > 1 and router weights that are spread more"
    rank = RankResult(rank=0, verdict=Verdict.PASSED, battery=proofs)
    result = merge("an-id", 1, [rank], 1.0)
    assert result.verdict is Verdict.VACUOUS
    assert any(text.startswith("zeros would pass: a larger n") for text in result.messages)


def test_a_bound_that_hides_small_mistakes_only_names_those():
    right = scene(case(m=8))
    worst = float((right.answer.variance.sqrt() / right.answer.out.norm(dim=1)).amax())
    wide = loosened(right, 0.4 / worst)  # rows may be off by .8 of their length or more
    assert outcomes(prove(wide))["halved"] is CAUGHT  # by the direction of all rows
    blind = dataclasses.replace(wide, answer=dataclasses.replace(wide.answer, along=None))
    words = outcomes(prove(blind))
    assert words["negated"] is CAUGHT
    assert words["halved"] is MISSED


def test_one_rank_that_catches_is_enough():
    right = scene(case(m=8))
    ranks = [
        RankResult(rank=0, verdict=Verdict.PASSED, battery=prove(right)),
        RankResult(rank=1, verdict=Verdict.PASSED, battery=prove(loosened(right, 1e4))),
        RankResult(rank=2, verdict=Verdict.PASSED),
    ]
    assert merge("an-id", 3, ranks, 1.0).verdict is Verdict.PASSED


@pytest.mark.parametrize("factor", [1.0, 300.0])
def test_the_check_is_compares_own(factor):
    """For each member, and for a bound that lets some of them pass."""
    here = loosened(scene(case(m=8, shared_experts=1)), factor)
    assert len(here.rows) == here.tokens
    words = set()
    for h in MEMBERS:
        try:
            out = h.compute(here)
        except NotApplicable:
            continue
        part = here.first(len(out))
        part = dataclasses.replace(part, tokens=len(out))
        failed = judge(out.to(torch.bfloat16), part.answer).verdict is Verdict.FAILED
        assert bool(rejected(out[None], part)) is failed, h.name
        words.add(failed)
    assert words == ({True} if factor == 1.0 else {True, False})


def test_nan_is_caught_whatever_the_bound():
    here = loosened(scene(case()), 1e6)
    out = here.answer.out.clone()
    out[2, 3] = torch.nan
    assert rejected(torch.stack([here.answer.out, out]), here).tolist() == [False, True]


def test_all_rows_together_count_only_for_a_mistake_in_all_of_them():
    """Of 40 tokens the scene has 16: what is seen in one of them says little of the others."""
    here = scene(case(m=40))
    reach = 2 * here.answer.variance.sqrt() + here.answer.flips.sqrt()
    signs = 1.0 - 2 * (torch.arange(here.answer.out.shape[1]) % 2)
    aside = 0.99 * reach[:, None] * signs / len(signs) ** 0.5  # each row a little inside its bound
    tight = dataclasses.replace(here.answer, out=here.answer.out * 0 + 1e4 * reach[:, None])
    tight = dataclasses.replace(here, answer=tight, case=here.case.replace(dtype="f32"), memo={})
    everywhere = tight.answer.out + aside
    all_but_one = everywhere.clone()
    all_but_one[5] = tight.answer.out[5]
    found = rejected(torch.stack([everywhere, all_but_one]), tight)
    assert found.tolist() == [True, False]


def test_dear_members_ask_more_rows_only_when_one_is_not_enough(monkeypatch):
    asked = []
    compute = Hypothesis.compute

    def counted(self, here):
        asked.append((self.name, len(here.rows)))
        return compute(self, here)

    monkeypatch.setattr(Hypothesis, "compute", counted)
    prove(scene(case(m=8)))
    assert [rows for name, rows in asked if name == "gate_up_swapped"] == [1]
    prove(loosened(scene(case(m=8)), 1e4))
    assert [rows for name, rows in asked if name == "gate_up_swapped"] == [1, 1, 4, 8]


@pytest.mark.parametrize(("seed", "is_in_first_call"), [(11, True), (52, False)])
def test_what_the_first_rows_cannot_show_other_rows_or_another_call_can(seed, is_in_first_call):
    """Half of the tokens choose zero experts, and few others have a gate beyond the limit.

    With seed 11 the limit shows in a later row of the first call, with 52 in the second call only.
    """
    few = {"m": 9, "n": 64, "k": 64, "top_k": 1, "zero_experts": 4, "activation": "swiglu_clamped"}
    hard = case(**few, seed=seed)
    found = run_case(hard, dataclasses.replace(ALONE, caches=Caches()))
    assert found.verdict is Verdict.PASSED
    assert outcomes(found.battery)["limit_missing"] is CAUGHT
    assert outcomes(prove(scene(hard).first(4)))["limit_missing"] is not CAUGHT
    assert (outcomes(prove(scene(hard)))["limit_missing"] is CAUGHT) == is_in_first_call


def test_a_mistake_that_no_call_can_show_leaves_the_case_vacuous(monkeypatch):
    asked = []

    def counted(here):
        asked.append(here.start)
        return (Proof(name="zeros", outcome=MISSED, explanation="more tokens"),)

    monkeypatch.setattr(execute, "prove", counted)
    found = run_case(case(m=8), dataclasses.replace(ALONE, caches=Caches()))
    assert asked == [0, 8], "both calls"
    assert merge("an-id", 1, [found], 1.0).verdict is Verdict.VACUOUS


def test_a_rank_without_tokens_proves_nothing():
    here = scene(case())
    assert prove(dataclasses.replace(here.first(0), tokens=0)) == ()


def test_a_case_that_passes_brings_its_proof():
    found = run_case(case(quant="int8_channel"), dataclasses.replace(ALONE, caches=Caches()))
    words = outcomes(found.battery)
    assert set(words) == NAMES
    assert words["zeros"] is words["scale_shifted"] is CAUGHT
    assert found.seconds["battery"] > 0


def test_a_case_that_fails_needs_none(monkeypatch):
    from moe.experts.torch_loop import TorchLoopExperts

    right = TorchLoopExperts.apply
    monkeypatch.setattr(TorchLoopExperts, "apply", lambda self, x, r: 2 * right(self, x, r))
    found = run_case(case(), dataclasses.replace(ALONE, caches=Caches()))
    assert found.verdict is Verdict.FAILED
    assert found.battery == ()


def test_the_weakest_of_many_is_put_to_the_check():
    """The expert that is dropped is the one whose loss moves the rows least."""
    here = scene(case(m=8))
    share = (here.answer.parts.sum(dim=0) * here.topk_weights[:, :, None]).square().sum(dim=2)
    lost = [float(share[here.topk_ids == e].sum()) for e in range(4)]
    off = (named("expert_dropped").compute(here) - here.answer.out).square().sum()
    assert float(off) == pytest.approx(min(lost), rel=1e-3)


def test_what_other_router_weights_explain_is_not_rejected():
    right = scene(case(m=8))
    right = dataclasses.replace(right, candidates=numerics_of(right.case, "cpu"))
    swapped = right.topk_weights.flip(1)
    outputs = torch.stack([right.total(weights=swapped), right.total(weights=swapped * 2)])
    assert rejected(outputs, right).tolist() == [True, True]
    may_be = dataclasses.replace(right, other_weights=(swapped,), memo={})
    assert rejected(outputs, may_be).tolist() == [False, True]
    assert rejected(outputs[:, :3], may_be.first(3)).tolist() == [False, True]
