"""The measurement of kernels: its floor, its lines, and that it runs; never how long it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import kernels
from benchmarks.kernels import Peaks, Timed, backends, bytes_of_expert, lines
from moe.platforms import platform
from moe.quant import QUANT

ROOT = Path(__file__).parents[1]
PEAK = Peaks(bandwidth=100.0, products={16: 1000.0, 8: 2000.0})


@pytest.mark.parametrize(
    ("operations", "weight_bytes", "bits", "seconds"),
    [(4000, 100, 16, 4.0), (4000, 100, 8, 2.0), (4000, 900, 16, 9.0)],
)
def test_the_floor_is_the_longer_of_reading_and_multiplying(
    operations, weight_bytes, bits, seconds
):
    assert PEAK.floor(operations, weight_bytes, bits) == seconds


def timed(backend, seconds, is_graph=True):
    return Timed(backend=backend, seconds=seconds, floor=1e-3, is_graph=is_graph)


def test_ours_is_compared_with_the_best_other_of_each_column():
    results = {
        "triton": {1: timed("triton", 2e-3), 64: timed("triton", 3e-3)},
        "torch_loop": {1: timed("torch_loop", 4e-3, False), 64: timed("torch_loop", 6e-3, False)},
        "vllm_triton": {1: timed("vllm_triton", 1e-3)},
    }
    cells = [line.split() for line in lines("none", results, (1, 64))]
    assert cells[0] == ["none", "triton", "2.0000", "(2.00)", "3.0000", "(3.00)"]
    assert cells[1][2:] == ["4.0000*", "(4.00)", "6.0000*", "(6.00)"]
    assert cells[2][-1] == "-"
    assert cells[3] == ["none", "triton", "/", "best", "other", "2.00", "0.50"]


def test_each_method_is_measured_through_ours_and_another_backend():
    for quant in QUANT.built_in:
        layer_spec = kernels.layer_of(kernels.SHAPES[0], 64, quant.name)
        for chip in ("cuda_sm90", "rocm_gfx950"):
            names = {row.name for row in backends(layer_spec, platform(chip))}
            assert "torch_loop" in names
            assert "triton_batched" not in names


def test_bytes_are_those_of_codes_and_scales():
    method = QUANT.load("fp8_block")()
    weights = kernels.weights_of(kernels.TINY[0], method, False, torch.device("cpu"))
    assert bytes_of_expert(weights) == 2 * 128 * 128 + 128 * 128 + 4 * (2 + 1)


def script(*options):
    command = [sys.executable, str(ROOT / "benchmarks" / "kernels.py"), *options]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_without_a_gpu_one_line_says_so():
    (line,) = script()
    assert line.startswith("bench-kernels needs a GPU")


def test_a_tiny_shape_runs_on_a_cpu():
    printed = script("--tiny", "--quant", "none", "--quant", "fp8_tensor", "--tokens", "3")
    starts = [tuple(line.split()[:2]) for line in printed]
    assert {("none", "triton"), ("none", "torch_grouped"), ("fp8_tensor", "triton")} <= {*starts}
    assert not [line for line in printed if "Error" in line]
