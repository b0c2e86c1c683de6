"""The estimate of a rank's memory, beside what ranks really took."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from harness.fixtures import cache
from harness.plan import cost
from tests.harness.plan.points import case

LARGE = {"m": 8, "n": 512, "k": 1024, "num_experts": 16, "experts": "torch_loop"}
QUANTS = ("none", "fp8_block", "int4_zp_g32", "nvfp4")
IN_GROUPS = ("int4_zp_g32", "nvfp4")
# Without it malloc keeps up to as much again as is in use, by the order of the calls before.
FREED_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
CASES = {quant: case(**LARGE, quant=quant) for quant in QUANTS}
CASES["many tokens"] = case(**{**LARGE, "m": 2048, "n": 128, "k": 256, "top_k": 8})


def test_the_estimate_knows_the_budget_of_caches():
    budgets = {name: cache.BUDGET_BYTES[name] for name in cost.RANK_BYTES}
    assert budgets == cost.CACHE_BYTES


def peaks(names, **environment):
    """Return the bytes by which a rank grew, by name of the case."""
    ids = [CASES[name].id for name in names]
    command = [sys.executable, "-m", "tests.harness.plan.rank_peaks", *ids]
    variables = os.environ | environment
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    assert done.returncode == 0, done.stderr
    return dict(zip(names, map(int, done.stdout.split()), strict=True))


@pytest.fixture(scope="module")
def held():
    return peaks(CASES)


@pytest.mark.parametrize("name", CASES)
def test_a_rank_takes_at_most_what_is_estimated_and_at_least_a_third(name, held):
    estimate = cost.rank_bytes(CASES[name].layer_spec, "cpu") - cost.RANK_BYTES["cpu"]
    assert estimate / 3 < held[name] < estimate


def test_weights_in_groups_take_no_more_than_those_in_the_layers_dtype():
    """Quantized all at once they take some 12 bytes for each weight more."""
    in_use = peaks(("none", *IN_GROUPS), **FREED_AT_ONCE)
    for quant in IN_GROUPS:
        assert in_use[quant] < 1.1 * in_use["none"], quant
