"""Terms that are left out or count too often are named as they were drawn; nothing else is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.diagnosis import which_shares
from harness.diagnosis.conditions import Fact
from harness.diagnosis.fit import MAX_RESIDUAL
from harness.diagnosis.terms import Terms
from harness.diagnosis.which_shares import OF_ITS_OWN
from tests.harness.diagnosis.explained import explained
from tests.harness.diagnosis.wrong_sums import SMALL, SPLIT, SPREAD, evidence_of, shares_of

FEW = settings(max_examples=6, deadline=None)
WORDS = {
    0.0: "are left out",
    0.5: "count half",
    2.0: "count twice",
    -1.0: "count with the wrong sign",
}
FACTORS = st.sampled_from([*WORDS, 1.3])
SLOTS, EXPERTS = st.integers(0, SMALL.top_k - 1), st.integers(0, SMALL.num_experts - 1)
IDS = shares_of()[0].output.routing.topk_ids


def out_with(is_its, factor, case=SMALL, rank=0):
    """The output if these shares [T, k] or [W, T, k] counted so often."""
    call, shares = shares_of(case, rank)
    times = torch.where(is_its, factor, 1.0).expand(shares.shape[:3])
    return call.answer.out + ((times - 1)[..., None] * shares).sum(dim=(0, 2))


def said(out, case=SMALL, rank=0):
    causes = list(which_shares.explain(evidence_of(out, case, rank)))
    assert all(cause.residual <= MAX_RESIDUAL and not cause.where for cause in causes)
    return [cause.cause for cause in causes]


def own_factors(out):
    """What is said of factors of each row, or None."""
    cause = which_shares.factors_of_each_row(evidence_of(out, SMALL, 0).shares[0])
    return None if cause is None else cause.cause


def words(factor):
    return WORDS.get(factor, f"count {factor:.3g} times")


@FEW
@given(SLOTS, FACTORS)
def test_a_slot_that_counts_otherwise(slot, factor):
    (text,) = said(out_with(torch.arange(SMALL.top_k) == slot, factor))
    assert text.startswith(f"the shares of slot {slot} ")
    assert text.endswith(words(factor))


@FEW
@given(st.sets(EXPERTS, min_size=1, max_size=2), FACTORS)
def test_experts_that_count_otherwise(experts, factor):
    (text,) = said(out_with(torch.isin(IDS, torch.tensor(sorted(experts))), factor))
    if len(experts) == 1:
        assert text.startswith(f"the shares of expert {min(experts)} ")
    assert text.endswith(words(factor))


@FEW
@given(st.integers(0, 3), FACTORS)
def test_the_same_local_expert_of_each_rank(local, factor):
    ids = shares_of(SPREAD)[0].output.routing.topk_ids
    (text,) = said(out_with(ids % 4 == local, factor, SPREAD), SPREAD)
    assert text.startswith(f"the shares of local expert {local} ")


@pytest.mark.parametrize("owner", [0, 1])
def test_a_rank_that_counts_twice(owner):
    ids = shares_of(SPREAD)[0].output.routing.topk_ids
    (text,) = said(out_with(ids // 4 == owner, 2.0, SPREAD), SPREAD)
    assert text.startswith(f"the shares of rank {owner} ")


@FEW
@given(st.integers(0, 3), FACTORS)
def test_a_rank_of_those_that_share_an_expert(rank, factor):
    is_its = torch.arange(4)[:, None, None] == rank
    (text,) = said(out_with(is_its, factor, SPLIT), SPLIT)
    assert text == f"the shares of rank {rank} {words(factor)}"


@FEW
@given(SLOTS, st.integers(4, 28))
def test_a_slot_of_some_rows(slot, first):
    is_its = (torch.arange(SMALL.top_k) == slot) & (torch.arange(32) >= first)[:, None]
    (text,) = said(out_with(is_its, 0.0))
    assert f"slot {slot}" in text
    assert f"rows >= {first}" in text


def test_rows_beyond_a_capacity():
    place = torch.nn.functional.one_hot(IDS.flatten().long()).cumsum(0)
    place = place.gather(1, IDS.flatten().long()[:, None]).view(IDS.shape) - 1
    (text,) = said(out_with(place >= 8, 0.0))
    assert text == "the shares of rows beyond the first 8 of an expert are left out"


def test_a_shared_expert_at_half():
    case = SMALL.replace(shared_experts=1)
    call, _ = shares_of(case)
    (text,) = said(call.answer.out - call.answer.shared / 2, case)
    assert text == "the shares of the shared experts count half"


def test_two_factors_in_one_output():
    slots = torch.arange(SMALL.top_k)
    out = out_with(slots == 1, 0.0) + out_with(slots == 3, 3.0) - shares_of()[0].answer.out
    (text,) = said(out)
    assert text.startswith("the shares of slot 1 are left out, and the shares of slot 3 (")
    assert text.endswith(") count three times")


@FEW
@given(st.integers(0, 2**31), st.sampled_from([0.05, 0.3, 2.0]))
def test_noise_is_no_sum_of_terms(seed, size):
    right = shares_of()[0].answer.out
    noise = torch.randn(right.shape, generator=torch.Generator().manual_seed(seed))
    assert said(right + size * noise * right.square().mean(dim=1, keepdim=True).sqrt()) == []


@FEW
@given(st.integers(0, 2**31), SLOTS)
def test_nothing_is_said_of_a_slot_left_out_and_noise(seed, slot):
    out = out_with(torch.arange(SMALL.top_k) == slot, 0.0)
    noise = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed))
    assert said(out + 0.2 * noise * out.square().mean(dim=1, keepdim=True).sqrt()) == []


@FEW
@given(st.integers(0, 2**31))
def test_terms_that_have_nothing_in_common_are_listed(seed):
    is_its = torch.rand(IDS.shape, generator=torch.Generator().manual_seed(seed)) < 0.3
    (cause,) = which_shares.explain(evidence_of(out_with(is_its, 0.0)))
    row, slot = is_its.nonzero()[0].tolist()
    assert cause.cause == "some shares are left out"
    assert cause.where.startswith(f"{int(is_its.sum())} of 128: (slot ")
    listed = [item for item in cause.where.split("(")[1:] if item.startswith(f"slot {slot}, ")]
    assert f", expert {int(IDS[row, slot])}, " in f", {listed[0]}"


@FEW
@given(st.integers(0, 2**31))
def test_of_factors_that_differ_only_that_is_said(seed):
    generator = torch.Generator().manual_seed(seed)
    out = out_with(torch.tensor(True), 2 * torch.rand(IDS.shape, generator=generator))
    assert said(out) == []
    assert own_factors(out) == OF_ITS_OWN
    assert own_factors(out + out.roll(1, 0) / 4) is None


def test_one_wrong_row_that_is_no_sum_silences_the_statement():
    out = out_with(torch.arange(SMALL.top_k) == 1, 0.5)
    out[7] = out[7].roll(1)
    assert said(out) == []


def test_the_diagnosis_says_it_where_no_known_mistake_does():
    out = out_with(torch.arange(SMALL.top_k) == 1, 0.5)
    (cause,) = explained(out, SMALL).causes
    assert cause.name == "which_shares"
    assert cause.cause.startswith("the shares of slot 1 ")


def test_rows_that_are_no_sums_are_not_computed_again():
    out = out_with(torch.arange(SMALL.top_k) == 1, 0.5)
    out[1:] = out[1:].roll(1, 1)
    evidence = evidence_of(out)
    assert list(which_shares.explain(evidence)) == []
    assert "larger" not in vars(evidence)


def test_three_factors_are_too_many_for_a_statement():
    slots = torch.arange(SMALL.top_k)
    out = out_with(slots == slots, 2.0 - 0.5 * slots)
    assert said(out) == []
    assert own_factors(out) == OF_ITS_OWN


def test_a_condition_that_mispredicts_a_term_it_was_not_found_by_is_not_said():
    """In the last row the noise could hide whether slot 1 counts once; it is not left out."""
    rows = 20
    values = torch.zeros(rows, 2, 8)
    values[:, 0, 0] = values[:, 1, 1] = 1.0
    times = torch.tensor([[1.0, 0.0]]).repeat(rows, 1)
    times[-1, 1] = 0.7
    tolerance = torch.full((rows,), 0.01)
    tolerance[-1] = 0.2
    slots = torch.arange(2).double().repeat(rows)

    def cause(times):
        return which_shares.which_shares(
            Terms(
                noun="shares",
                actual=(values * times[..., None]).sum(dim=1),
                expected=values.sum(dim=1),
                tolerance=tolerance,
                is_wrong=torch.ones(rows, dtype=torch.bool),
                values=values,
                facts=(Fact(one="slot", many="slots", values=slots),),
            )
        )

    assert cause(times) is None
    times[-1, 1] = 0.0
    assert cause(times).cause == "the shares of slot 1 are left out"
