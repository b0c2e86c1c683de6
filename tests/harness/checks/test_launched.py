"""A backend of kernels launches them: a fallback with the right numbers fails."""

from __future__ import annotations

import dataclasses

import pytest

from harness.checks import launched
from harness.matrix.call_modes import GRAPH
from harness.record.result import Verdict
from moe.experts import triton, triton_batched
from moe.kernels.batched_gemm import batched_gemm_torch
from moe.kernels.grouped_gemm import grouped_gemm_torch
from moe.kernels.launch import INTERPRETED
from tests.harness.checks.observed import observation, with_call

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not INTERPRETED, reason="the rank of these tests is on the CPU"),
]
SMALL = {"m": 5, "n": 32, "k": 32, "num_experts": 2, "top_k": 1}


@pytest.fixture(scope="module")
def seen():
    return observation(**SMALL, experts="triton")


def test_kernels_that_ran_are_no_finding(seen):
    assert launched.applies(seen)
    assert launched.findings(seen) == ()
    assert all(any(line.startswith("_grouped_gemm(") for line in c.launched) for c in seen.calls)


@pytest.mark.parametrize(
    ("name", "module", "fallback"),
    [
        ("triton", triton, grouped_gemm_torch),
        ("triton_batched", triton_batched, batched_gemm_torch),
    ],
)
def test_a_product_that_falls_back_to_torch_fails(name, module, fallback, monkeypatch):
    monkeypatch.setattr(module, fallback.__name__.removesuffix("_torch"), fallback)
    found = launched.findings(observation.__wrapped__(**SMALL, experts=name))
    assert [f.call for f in found] == [0, 1]
    assert {(f.check, f.leads, f.verdict) for f in found} == {("launched", True, Verdict.FAILED)}
    kernel = f"_{fallback.__name__.removesuffix('_torch')}"
    assert f"experts: {name} must launch {kernel}, and the call launched only _activate" in (
        found[0].text
    )
    assert found[1].text.startswith("second call with ")
    assert "leave them out of `launches` of the row" in found[0].text


def test_only_the_call_that_fell_back_is_named(seen):
    (finding,) = launched.findings(with_call(seen, 1, launched=frozenset()))
    assert finding.call == 1
    assert "launched no Triton kernel" in finding.text


def test_a_call_without_rows_on_this_rank_launches_nothing(seen):
    ids = seen.calls[1].stages["ids"]
    absent = {"ids": dataclasses.replace(ids, value=ids.value.new_full(ids.value.shape, -1))}
    call = {"stages": seen.calls[1].stages | absent, "launched": frozenset()}
    assert launched.findings(with_call(seen, 1, **call)) == ()


def test_a_graph_that_is_replayed_has_launched_in_an_earlier_call(seen):
    other = with_call(seen, 1, launched=frozenset())
    case = seen.subject.case.replace(call=GRAPH)
    graph = dataclasses.replace(other, subject=dataclasses.replace(seen.subject, case=case))
    assert launched.findings(graph) == ()
    (finding,) = launched.findings(with_call(graph, 0, launched=frozenset()))
    assert finding.call == 0


def test_rows_that_name_no_kernels_are_not_checked():
    assert not launched.applies(observation())
