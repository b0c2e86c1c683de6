"""Each planted fault is named by its own stage first; a right stack has no finding."""

from __future__ import annotations

import re

import pytest
import torch

from harness import parallel_launch
from harness.record.result import Verdict
from moe import intermediates
from moe.experts import triton
from moe.experts.torch_loop import TorchLoopExperts
from moe.quant import QUANT
from tests.harness.checks import stage_faults, stage_members
from tests.harness.checks.stage_faults import case, run, stages_of

pytestmark = pytest.mark.usefixtures("one_thread")

UNWRITTEN = "tests.harness.checks.stage_members:LeavesRowsUnwritten"
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


KEPT_BACK = (
    stage_faults.input_codes_alone,
    stage_faults.second_codes_alone,
    stage_faults.activation_alone,
)
LOOPED = [(quant, "torch_loop") for quant in QUANT.rows]


@pytest.mark.parametrize(("quant", "experts"), [*LOOPED, ("none", "torch_grouped")])
def test_a_right_stack_has_no_finding(quant, experts):
    for fields in ({}, {"shared_experts": 1}, {"m": 40, "top_k": 3}):
        found = run(stage_faults.nothing, case(quant=quant, experts=experts, **fields).id)
        assert (found.verdict, found.messages) == (Verdict.PASSED, ())


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


def run_all(rows):
    """In a rank: run each (fault's name, case id)."""
    return [run(getattr(stage_faults, name), text, world_size=2) for name, text in rows]


OWN_FIRST = "tests.harness.checks.stage_members:OwnRowsFirst"
FORGETS = "tests.harness.checks.stage_members:ForgetsItsOrder"
IDS_LEFT = "tests.harness.checks.stage_members:KeepsIdsInRankOrder"
BY_SLOT = "tests.harness.checks.stage_members:RowForEachSlot"
ODD_BY_SLOT = "tests.harness.checks.stage_members:SlotRowsOnOddRanks"
BETWEEN = [
    ("rows_in_another_order", "dispatch", {"dp_size": 2, "use_ep": True}),
    ("rows_in_another_order", "dispatch", {"dp_size": 2, "quant": "int8_channel"}),
    ("rows_in_another_order", "dispatch", {"dp_size": 2, "quant": "fp8_tensor_dynamic"}),
    ("ids_of_padding_kept", "dispatch", {"dp_size": 2, "m": 8, "tokens": "ragged"}),
    ("one_weight_doubled", "dispatch", {"dp_size": 2}),
    ("input_codes", "input", {"dp_size": 2, "quant": "int8_channel"}),
    ("sum_between_ranks", "finalize", {"dp_size": 2, "use_ep": True}),
    ("nothing", "dispatch", {"dp_size": 2, "use_ep": True, "all2all": IDS_LEFT}),
    ("nothing", "finalize", {"dp_size": 2, "use_ep": True, "all2all": FORGETS}),
    ("one_weight_doubled", "dispatch", {"dp_size": 2, "all2all": OWN_FIRST}),
    ("sum_over_tp", "out", {"tp_size": 2}),
    ("nothing", "combine", {"dp_size": 2, "use_ep": True, "top_k": 1, "experts": UNWRITTEN}),
    ("nothing", "combine", {"tp_size": 2, "use_ep": True, "top_k": 1, "experts": UNWRITTEN}),
    ("sum_over_tp", "out", {"tp_size": 2, "use_ep": True, "shared_experts": 1}),
]
CLEAN = [
    {"dp_size": 2, "use_ep": True, "tokens": "idle"},
    {"dp_size": 2, "m": 8, "tokens": "ragged", "quant": "fp8_tensor_dynamic"},
    {"tp_size": 2, "use_ep": True, "sequence_parallel": True, "m": 1},
    {"tp_size": 2, "n": 256, "quant": "fp8_block", "shared_experts": 1},
    {"dp_size": 2, "use_ep": True, "num_experts": 1, "top_k": 1},
    {"dp_size": 2, "quant": "int8_channel", "dtype": "fp16"},
    {"dp_size": 2, "use_ep": True, "all2all": OWN_FIRST},
    {"dp_size": 2, "all2all": OWN_FIRST, "num_experts": 1, "top_k": 1},
    {"dp_size": 2, "all2all": OWN_FIRST, "k": 1, "m": 8, "quant": "fp8_tensor"},
    {"dp_size": 2, "use_ep": True, "m": 8, "tokens": "ragged", "all2all": OWN_FIRST}
    | {"quant": "fp8_block"},
    {"dp_size": 2, "use_ep": True, "tokens": "idle", "all2all": OWN_FIRST}
    | {"quant": "fp8_tensor_dynamic"},
    {"dp_size": 2, "use_ep": True, "experts": "triton", "all2all": BY_SLOT},
    # On one rank only the first slots have an expert: the other rows could be padding.
    {"tp_size": 2, "use_ep": True, "m": 1, "num_experts": 2, "experts": "triton"}
    | {"all2all": BY_SLOT},
    {"dp_size": 2, "use_ep": True, "experts": "triton", "all2all": ODD_BY_SLOT},
    {"dp_size": 2, "tokens": "idle", "quant": "int8_channel", "experts": "triton"}
    | {"all2all": BY_SLOT},
]


@pytest.fixture(scope="module")
def launched():
    """Every rank's results of BETWEEN and of CLEAN, from one gang."""
    planted = [(name, case(**fields).id) for name, _, fields in BETWEEN]
    rows = planted + [("nothing", case(**fields).id) for fields in CLEAN]
    ranks = parallel_launch(2, run_all, rows, timeout=120)
    results = list(zip(*ranks, strict=True))
    return results[: len(BETWEEN)], results[len(BETWEEN) :]


def test_faults_between_ranks_are_named_first(launched):
    for (name, stage, _), results in zip(BETWEEN, launched[0], strict=True):
        named = [stages_of(result) for result in results]
        assert any(named), name
        assert {stages[0] for stages in named if stages} == {stage}, (name, named)
        worst = [result.verdict for result in results]
        assert Verdict.FAILED in worst


def test_rows_that_a_rank_leaves_unwritten_are_named_where_they_lie(launched):
    """The rank that left them there names row and column; nobody expects NaN."""
    for (_, _, fields), results in zip(BETWEEN, launched[0], strict=True):
        if fields.get("experts") != UNWRITTEN:
            continue
        findings = [
            finding
            for result in results
            for call in result.diagnosis.calls
            for finding in call.stages
        ]
        assert findings
        for finding in findings:
            assert re.search(r"first at \[\d+, 0\]: nan, expected 0 ", finding.text), finding
        said = "\n".join(text for result in results for text in result.messages)
        assert "expected nan" not in said


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


def test_an_idle_rank_and_uneven_tokens_have_no_finding(launched):
    for fields, results in zip(CLEAN, launched[1], strict=True):
        for result in results:
            assert (result.verdict, result.messages) == (Verdict.PASSED, ()), fields


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
