"""Pairs of values and edges: what counts as new, and what share of the possible there is."""

from __future__ import annotations

import dataclasses

import pytest

from harness.commands.fuzz_coverage import NAMES, PairCoverage, pairs_line
from harness.commands.fuzz_space import space_for
from harness.matrix.case import MoETestConfig
from harness.plan import machine

SPACE = space_for(dataclasses.replace(machine.planned_for("cpu"), planned=False))
CASE = MoETestConfig(experts="torch_loop", m=3, n=64, k=64, num_experts=4, top_k=2)


def test_pairs_are_of_different_axes_and_tokens_count_by_powers_of_two():
    coverage = PairCoverage(SPACE)
    coverage.add(CASE)
    one = len(coverage.pairs)
    coverage.add_pairs(CASE.replace(m=4, seed=7))
    assert len(coverage.pairs) == one
    assert coverage.news(CASE, "quant") == 0
    assert coverage.news(CASE.replace(quant="fp8_channel"), "quant") == len(NAMES) - 1


def test_a_value_next_to_a_refused_one_is_an_edge():
    coverage = PairCoverage(SPACE)
    coverage.know([CASE, CASE.replace(top_k=4), CASE.replace(top_k=6, num_experts=8)])
    assert coverage.edges_of(CASE.replace(top_k=4), "top_k") == [("top_k", 4, 6)]  # of 4 experts
    assert coverage.edges_of(CASE, "top_k") == []
    assert coverage.edges_of(CASE, "quant") == []  # names have no order


def test_the_share_counts_pairs_that_one_change_gives():
    """Of two axes with two values each, three of four pairs; the fourth can run."""
    cases = [CASE, CASE.replace(tokens="none"), CASE.replace(shared_experts=1)]
    assert "at most 100%" in pairs_line(SPACE, cases[:1])
    share = PairCoverage(SPACE)
    for case in cases:
        share.add_pairs(case)
    assert share.share() == pytest.approx(len(share.pairs) / (len(share.pairs) + 1))
