"""What the members recorded, addressed by row and slot."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from harness.checks.stage_record import Handed, handed_out, spread
from harness.record.result import Verdict
from moe import intermediates
from moe.experts.torch_loop import TorchLoopExperts
from moe.intermediates import Kept
from tests.harness.checks.observed import observation
from tests.harness.checks.stage_faults import case, run

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("stage", "shape", "says"),
    [
        (
            "gemm1",
            (3, 2 * 128),
            "stage gemm1 was recorded with 3 rows, but row 5 exists; record all",
        ),
        ("gemm1", (10, 1), "stage gemm1 was recorded, in these rows, as [6, 1]; it must be"),
        ("gemm2", (10, 127), "stage gemm2 was recorded, in these rows, as [6, 127]; it must be"),
    ],
)
def test_a_stage_of_another_shape_is_its_member_s_fault(stage, shape, says):
    """Nothing is broadcast, and no index of the harness's own is blamed."""

    def plant(patch):
        real = TorchLoopExperts.apply

        def apply(self, x, routing):
            out = real(self, x, routing)
            intermediates.keep(stage, torch.zeros(shape))
            return out

        patch.setattr(TorchLoopExperts, "apply", apply)

    found = run(plant, case(all2all="local").id)
    assert found.verdict is Verdict.ERROR
    (text,) = found.messages
    assert text.startswith("the check 'stages' raised ValueError: ")
    assert says in text.splitlines()[0]


def handed(**changes) -> Handed:
    """The record of a right call. changes: stages that were recorded otherwise."""
    seen = observation()
    call = seen.calls[0]
    call = dataclasses.replace(call, stages=call.stages | changes)
    return handed_out(seen.subject, call, 0, exact=False)


def test_a_stage_is_read_by_flat_row():
    record = handed()
    assert (record.ranks, record.sizes, record.top_k, record.by_token) == ((0,), (5,), 2, True)
    assert record.has("gemm1", "gemm2")
    assert not record.has("gemm1", "finalise")
    flat = torch.tensor([7, 0])
    numbered = Kept(value=torch.tensor([[1.0], [2.0], [3.0]]), rows=torch.tensor([4, 7, 0]))
    assert handed(gemm1=numbered).rows("gemm1", flat).tolist() == [[2], [3]]
    in_order = Kept(value=torch.arange(10.0)[:, None])
    assert handed(gemm1=in_order).rows("gemm1", flat).tolist() == [[7], [0]]


def test_rows_that_were_not_recorded_are_nan():
    numbered = Kept(value=torch.tensor([[1.0]]), rows=torch.tensor([4]))
    values = handed(gemm1=numbered).rows("gemm1", torch.tensor([3, 4]))
    assert values.isnan().tolist() == [[True], [False]]


def test_numbers_that_do_not_go_with_the_rows_are_the_member_s_error():
    numbered = Kept(value=torch.ones(2, 1), rows=torch.arange(3))
    with pytest.raises(ValueError, match="gemm1 was recorded with 2 rows and the numbers of 3;"):
        handed(gemm1=numbered).rows("gemm1", torch.tensor([0]))


def test_the_tokens_of_the_group_are_made_from_the_seed():
    assert torch.equal(handed().sent, observation().calls[0].tokens.x)


def test_codes_are_dequantized_with_recorded_scales_and_without_any_they_are_unknown():
    seen = observation(quant="int8_channel")
    call, rows = seen.calls[0], torch.arange(5)
    record = handed_out(seen.subject, call, 0, exact=False)
    values = record.dequantized("input", rows)
    assert float((values - call.tokens.x.float()).norm() / values.norm()) < 0.02
    doubled = Kept(value=call.stages["input_scale"].value * 2)
    twice = dataclasses.replace(call, stages=call.stages | {"input_scale": doubled})
    assert torch.equal(
        handed_out(seen.subject, twice, 0, exact=False).dequantized("input", rows), values * 2
    )
    stages = {name: kept for name, kept in call.stages.items() if name != "input_scale"}
    alone = dataclasses.replace(call, stages=stages)
    assert handed_out(seen.subject, alone, 0, exact=False).dequantized("input", rows) is None


def test_scales_of_groups_are_spread_over_their_columns():
    scale = torch.tensor([[1.0, 2.0]])
    assert spread(scale, 3, 2).tolist() == [[1, 1, 2]]
    assert spread(scale, 3, None) is scale


def test_a_stage_recorded_without_any_row_has_none_in_every_flat_row():
    for value in (torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.float8_e4m3fn)):
        record = handed(second=Kept(value=value, rows=torch.zeros(0, dtype=torch.int64)))
        values = record.rows("second", torch.tensor([0, 3]))
        assert (values.shape, values.dtype) == ((2, 4), torch.float32)
        assert bool(values.isnan().all())
