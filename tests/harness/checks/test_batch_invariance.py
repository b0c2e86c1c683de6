"""A token passed alone has the bits that it had among others, where the members claim it."""

from __future__ import annotations

import pytest
import torch

from harness.checks import batch_invariance
from harness.checks.batch_invariance import difference, is_claimed
from harness.execute import run_case
from harness.record.result import Verdict
from moe.experts import EXPERTS
from moe.experts.triton import TritonExperts
from tests.harness.checks.claims import claim
from tests.harness.execute_ranks import case, context

pytestmark = pytest.mark.usefixtures("one_thread", "claimed")
POINT = case(m=8, experts="triton", all2all="local")


@pytest.fixture
def claimed(monkeypatch):
    """Interpreted tiles do not depend on the number of tokens here, compiled ones do."""
    claim(monkeypatch, EXPERTS, "triton", batch_invariant=True)


@pytest.mark.parametrize(
    ("fields", "is_expected"),
    [
        ({}, True),
        ({"quant": "fp8_block"}, True),
        ({"all2all": "all_to_all", "dp_size": 2, "use_ep": True}, True),
        ({"experts": "torch_loop"}, False),
        ({"all2all": "allgather_reducescatter", "dp_size": 2, "use_ep": True}, False),
        ({"shared_experts": 1}, False),
        ({"gate": True}, False),
        ({"latent": 64}, False),
        ({"quant": "fp8_tensor_dynamic"}, False),
        ({"all2all": "all_to_all", "tp_size": 2, "use_ep": True, "sequence_parallel": True}, False),
        ({"all2all": "all_to_all", "dp_size": 2, "use_ep": True, "eplb": "global"}, False),
    ],
)
def test_it_is_claimed_where_no_part_of_the_layer_mixes_tokens(fields, is_expected):
    assert is_claimed(POINT.replace(**fields)) is is_expected


def test_a_layer_that_keeps_its_claim_passes():
    assert run_case(POINT, context()).verdict is Verdict.PASSED


def test_bits_that_depend_on_the_number_of_tokens_fail(monkeypatch):
    real = TritonExperts.apply

    def apply(self, x, routing):
        out = real(self, x, routing)
        return out if len(out) > 1 else out * (1 + 2.0**-7)

    monkeypatch.setattr(TritonExperts, "apply", apply)
    result = run_case(POINT, context())
    assert result.verdict is Verdict.FAILED
    (text,) = result.messages
    assert text.startswith("not batch invariant: ")
    assert "of 128 elements differ when the last token is passed alone" in text
    assert "claim that a token's bits depend on no other (`batch_invariant`)" in text


def test_the_first_column_that_differs_is_shown_with_both_values():
    together, alone = torch.ones(1, 4), torch.ones(1, 4)
    assert difference(together, alone) is None
    alone[0, 2] = 2.0
    assert "1 of 4 elements" in difference(together, alone)
    assert "first [0, 2]: 1, then 2" in difference(together, alone)


def test_an_output_of_another_shape_is_told():
    assert "an output of [2, 4]" in difference(torch.ones(1, 4), torch.ones(2, 4))


def test_a_rank_without_tokens_has_nothing_to_compare():
    assert difference(torch.ones(0, 4), torch.ones(0, 4)) is None


def test_all_ranks_take_part():
    assert batch_invariance.CHECK.collective
