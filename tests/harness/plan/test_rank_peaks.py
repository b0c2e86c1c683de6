"""The estimate of a rank's memory, beside what ranks really took."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.fixtures import cache
from harness.plan import cost
from tests.harness.plan.points import case

LARGE = {"m": 8, "n": 512, "k": 1024, "num_experts": 16, "experts": "torch_loop"}
QUANTS = ("none", "fp8_block", "int8_channel", "int4_g32", "int4_zp_g32", "mxfp4", "nvfp4")
CASES = {quant: case(**LARGE, quant=quant) for quant in QUANTS}
CASES["many tokens"] = case(**{**LARGE, "m": 2048, "n": 128, "k": 256, "top_k": 8})


def test_the_estimate_knows_the_budget_of_caches():
    budgets = {name: cache.BUDGET_BYTES[name] for name in cost.RANK_BYTES}
    assert budgets == cost.CACHE_BYTES


@pytest.fixture(scope="module")
def peaks():
    """Bytes by which a rank grew, by name of the case."""
    ids = [case.id for case in CASES.values()]
    command = [sys.executable, "-m", "tests.harness.plan.rank_peaks", *ids]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return dict(zip(CASES, map(int, done.stdout.split()), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_rank_takes_at_most_what_is_estimated_and_at_least_a_third(name, peaks):
    estimate = cost.rank_bytes(CASES[name].layer_spec, "cpu") - cost.RANK_BYTES["cpu"]
    assert estimate / 3 < peaks[name] < estimate


def test_weights_in_groups_take_no_more_than_those_in_the_layers_dtype(peaks):
    """Quantized all at once they take some 12 bytes for each weight more."""
    for quant in ("int4_g32", "int4_zp_g32", "mxfp4", "nvfp4"):
        assert peaks[quant] < 1.25 * peaks["none"], quant
