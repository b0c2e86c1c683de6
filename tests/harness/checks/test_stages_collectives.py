"""Stages between ranks: a fault there is named first, and a right stack has no finding."""

from __future__ import annotations

import re

import pytest

from harness import parallel_launch
from harness.record.result import Verdict
from tests.harness.checks import stage_faults
from tests.harness.checks.stage_faults import case, run, stages_of

pytestmark = pytest.mark.usefixtures("one_thread")
UNWRITTEN = "tests.harness.checks.stage_members:LeavesRowsUnwritten"


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
    # So many rows that a sample is judged, which alone would have another scale.
    {"dp_size": 2, "m": 640, "shared_experts": 1, "shared_quant": "nvfp4_dynamic"},
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


def test_an_idle_rank_and_uneven_tokens_have_no_finding(launched):
    for fields, results in zip(CLEAN, launched[1], strict=True):
        for result in results:
            assert (result.verdict, result.messages) == (Verdict.PASSED, ()), fields
