"""A diagnosis takes few operations: their number is what it costs on a device."""

from __future__ import annotations

import pytest
import torch

from benchmarks.diagnosis import BACKENDS, RIGHT, Operations, operations
from harness.execute import run_case
from harness.fixtures.rank_context import RankContext
from harness.matrix.case import MoETestConfig
from harness.record.result import Verdict

torch.set_num_threads(1)
RIGHT_BACKEND, UNKNOWN, KNOWN = BACKENDS
CASE = MoETestConfig(m=64, n=128, k=256, num_experts=8, top_k=4, experts=RIGHT)


def context():
    return RankContext(rank=0, world_size=1, device=torch.device("cpu"), transport="staged")


@pytest.mark.parametrize("experts", [8, 64])
@pytest.mark.parametrize("quant", ["none", "fp8_block"])
def test_an_unknown_cause_takes_few_operations_however_many_experts_there_are(experts, quant):
    """The rest of these cases takes 6,300 with 8 experts, and up to 20,100 with 64."""
    case = CASE.replace(num_experts=experts, top_k=min(8, experts // 2), quant=quant)
    case = case.replace(experts=UNKNOWN)
    shared = context()
    result = run_case(case, shared)
    assert result.verdict is Verdict.FAILED
    for call in result.diagnosis.calls:
        assert (call.causes, call.untried, call.faults) == ((), 0, ())
        assert call.stages[0].stage == "combine"
        assert call.tried > 25  # those that may show there first
    _, explained = operations(case, shared)
    assert 1000 < explained < 16_000


def test_a_known_cause_takes_fewer_operations_than_an_unknown_one():
    shared = context()
    known = CASE.replace(experts=KNOWN)
    result = run_case(known, shared)
    assert [call.causes[0].name for call in result.diagnosis.calls] == ["gate_up_swapped"] * 2
    _, unknown_operations = operations(CASE.replace(experts=UNKNOWN), shared)
    _, known_operations = operations(known, shared)
    assert known_operations < unknown_operations


def test_a_case_that_passes_has_no_diagnosis_to_count():
    shared = context()
    run_case(CASE, shared)
    counter = Operations()
    with counter.counting():
        result = run_case(CASE, shared)
    assert result.verdict is Verdict.PASSED, result.messages
    assert counter.by_phase["diagnosis"] == 0
    assert counter.by_phase["reference"] > 500
    assert counter.by_phase.keys() <= result.seconds.keys()
