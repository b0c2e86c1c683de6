"""Stages inside the experts: one element is enough, and what cannot be known is no finding."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch

from harness.record.result import Verdict
from moe import intermediates
from moe.experts.torch_loop import TorchLoopExperts
from moe.quant import QUANT
from tests.harness.checks import stage_faults, stage_roundings
from tests.harness.checks.stage_faults import case, run, stages_of

pytestmark = pytest.mark.usefixtures("one_thread")
KEPT_BACK = (
    stage_faults.input_codes_alone,
    stage_faults.second_codes_alone,
    stage_faults.activation_alone,
)


@pytest.mark.parametrize("kept_back", KEPT_BACK, ids=lambda plant: plant.__name__)
@pytest.mark.parametrize("quant", QUANT.rows)
def test_codes_whose_scale_nobody_says_are_not_taken_for_values(quant, kept_back):
    found = run(kept_back, case(quant=quant).id)
    assert (found.verdict, found.messages) == (Verdict.PASSED, ())


@pytest.mark.parametrize("quant", QUANT.rows)
def test_one_row_for_each_slot_is_left_to_the_output(quant):
    """Each slot's output is rounded, which triton's row declares."""
    slots = case(
        quant=quant, experts="triton", all2all="tests.harness.checks.stage_members:RowForEachSlot"
    )
    found = run(stage_faults.nothing, slots.id)
    assert (found.verdict, found.messages) == (Verdict.PASSED, ())


def test_one_element_is_enough_and_is_named():
    """Two steps of bf16 in one element of the first product: the output's bound allows that."""
    found = run(stage_faults.first_product, case(experts="triton").id)
    assert stages_of(found) == ["gemm1"]
    assert len(found.messages) == 1  # nothing else had seen it
    assert found.messages[0].startswith("stage gemm1: 1 of ")
    assert " elements differ in 1 of " in found.messages[0]
    (call,) = found.diagnosis.calls
    (finding,) = call.stages
    assert (finding.stage, finding.bad) == ("gemm1", 1)
    where = finding.where
    assert where["rows"] == [where["row"]]
    assert where["columns"] == [where["column"], where["column"]]
    assert where["tokens"] == [where["row"] // 2]
    off = abs(where["value"] - where["expected"])
    assert off > where["allowed"] > 0
    assert list(found.diagnosis.failed) == [1]
    assert not found.diagnosis.every_call  # the first's stages are not looked at then


@pytest.mark.parametrize("stage", ["gemm2", "combine"])
def test_nan_in_a_stage_of_which_no_more_is_known_is_named(stage):
    """The member hands out no input to it, so that nothing can be worked out."""

    def plant(patch):
        real = TorchLoopExperts.apply

        def apply(self, x, routing):
            with intermediates.recording() as kept:
                out = real(self, x, routing)
            y = kept["gemm2"].value.clone()
            if stage == "gemm2":
                y[0, 3] = torch.nan
                intermediates.keep("gemm2", y, rows=kept["gemm2"].rows)
            out[int(kept["gemm2"].rows[0]) // 2, 3] = torch.nan
            return out

        patch.setattr(TorchLoopExperts, "apply", apply)

    found = run(plant, case(all2all="local").id)
    assert stages_of(found) == [stage]
    for call in found.diagnosis.calls:
        (finding,) = call.stages
        assert finding.where["column"] == 3
        assert re.match(r"1 of \d+ elements are NaN or Inf.*; first at ", finding.text)


ROUNDINGS = {
    "GateStep": ("gemm1", "activation", "gemm2"),
    "WeightInside": ("gemm1", "activation", "gemm2"),
    "WeightedOnly": ("gemm1", "activation", "weighted"),
    "WeightedByRounded": ("gemm1", "activation", "weighted"),
    "WeightedTwice": ("gemm1", "activation", "weighted"),
}


def rounding_member(name):
    return case(m=16, experts=f"{stage_roundings.HERE}:{name}")


@pytest.mark.parametrize("name", ROUNDINGS)
def test_stages_that_are_rounded_as_declared_are_right(name):
    found = run(stage_faults.nothing, rounding_member(name).id)
    assert (found.verdict, found.messages) == (Verdict.PASSED, ())


@pytest.mark.parametrize(
    ("name", "stage"), [(name, stage) for name, stages in ROUNDINGS.items() for stage in stages]
)
def test_one_wrong_element_of_a_rounded_stage_is_found(name, stage):
    def plant(patch):
        patch.setattr(getattr(stage_roundings, name), "fault", stage)

    found = run(plant, rounding_member(name).id)
    assert stages_of(found)[:1] == [stage]


@pytest.mark.parametrize(
    ("name", "places", "stage"),
    [
        ("GateStep", {"activated_gate": "f32"}, "activation"),
        ("WeightInside", {"weight_dtype": "f32"}, "activation"),
        ("WeightedByRounded", {"weight_dtype": "f32"}, "weighted"),
    ],
)
def test_a_stage_that_is_rounded_otherwise_than_declared_is_found(name, places, stage):
    def plant(patch):
        member = getattr(stage_roundings, name)
        right = member.row.numerics
        stated = dataclasses.replace(right, **places)
        patch.setattr(member, "row", dataclasses.replace(member.row, numerics=stated))
        patch.setattr(member, "says", right, raising=False)

    found = run(plant, rounding_member(name).id)
    assert stage in stages_of(found)


@pytest.mark.parametrize("stated", ["model", "f32"])
def test_weights_that_are_dequantized_in_the_layer_s_dtype(stated):
    """The reference rounds scales and weights where the row says so; a row that does not fails."""

    def plant(patch):
        row = stage_roundings.Dequantized.row
        numerics = dataclasses.replace(row.numerics, dequantized=stated)
        patch.setattr(
            stage_roundings.Dequantized, "row", dataclasses.replace(row, numerics=numerics)
        )

    name = f"{stage_roundings.HERE}:Dequantized"
    found = run(plant, case(m=16, experts=name, quant="int4_g32").id)
    assert found.verdict == (Verdict.PASSED if stated == "model" else Verdict.FAILED)
    if stated == "f32":
        assert stages_of(found)[0] == "gemm1"
