"""Sums of rows that arrive at some ranks only, or in blocks: a fault is named at its stage."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from harness import parallel_launch
from harness.checks import stages_sums
from harness.checks.token_order import Arrival
from harness.record.result import Verdict
from tests.harness.checks import stage_faults
from tests.harness.checks.stage_faults import case, run, stages_of

pytestmark = pytest.mark.usefixtures("one_thread")
EP = {"dp_size": 2, "use_ep": True, "m": 8}
SENT, BLOCKS = ({**EP, "all2all": name} for name in ("all_to_all", "all_to_all_batched"))
FAULTS = [
    ("a_token_for_each_slot", "dispatch", SENT),
    ("a_token_left_out", "dispatch", SENT),
    ("scales_in_another_order", "dispatch", SENT | {"quant": "int8_channel"}),
    ("sums_of_other_tokens", "finalize", SENT),
    ("weights_of_other_slots", "finalize", BLOCKS),
    ("rows_of_a_block_swapped", "dispatch", BLOCKS),
    ("a_block_cut_short", "dispatch", BLOCKS),
]


def run_all(rows):
    """In a rank: run each (fault's name, case id)."""
    return [run(getattr(stage_faults, name), text, world_size=2) for name, text in rows]


def test_a_fault_is_named_at_its_stage():
    rows = [(name, case(**fields).id) for name, _, fields in FAULTS]
    ranks = parallel_launch(2, run_all, rows, timeout=120)
    for (name, stage, _), results in zip(FAULTS, zip(*ranks, strict=True), strict=True):
        named = [stages_of(result) for result in results]
        assert any(named), name
        assert {stages[0] for stages in named if stages} == {stage}, (name, named)
        assert Verdict.FAILED in [result.verdict for result in results], name


@pytest.mark.parametrize(("error", "is_wrong"), [(1e-6, False), (6e-6, True)])
def test_slots_that_cancel_are_summed_as_exactly_as_their_sizes_allow(error, is_wrong):
    slots = torch.tensor([[3.0], [-3.0 + 2.0**-20]])
    case = SimpleNamespace(
        dtype="f32", layer_spec=SimpleNamespace(hidden=1, expert_hidden=1), exact=False
    )
    handed = SimpleNamespace(
        sampled=lambda rank: torch.tensor([0]),
        ranks=[0],
        rank=0,
        sizes=[1],
        ids=torch.zeros((2, 1)),
        group=SimpleNamespace(all_gather=lambda values: values),
        call=SimpleNamespace(tokens=SimpleNamespace(x=torch.zeros((1, 1)))),
        stages={
            "combine": SimpleNamespace(value=slots),
            "finalize": SimpleNamespace(value=slots.sum(dim=0, keepdim=True) + error),
        },
        subject=SimpleNamespace(
            case=case, reference=SimpleNamespace(numerics=SimpleNamespace(reduction="wire"))
        ),
        top_k_of_tokens=2,
        exact=False,
    )
    twice = torch.tensor([0, 0])
    arrival = Arrival(
        rows=torch.arange(2),
        tokens=twice,
        slots=torch.arange(2),
        expected=None,
        factors=torch.ones(2),
    )
    finding = stages_sums.finalize(handed, arrival)
    assert (finding is not None) is is_wrong, finding
    if finding is not None:  # the diagnosis gets what each slot adds to each row
        assert torch.equal(finding.expected.terms, slots[None])
        assert finding.expected.over == "slots"
