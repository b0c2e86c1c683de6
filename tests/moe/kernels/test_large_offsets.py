"""Offsets beyond 2**31 elements: on a CPU in memory that is reserved and mostly never touched.

`benchmarks/large_offsets.py` does so with every kernel on a GPU; here it runs in a small size.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import large_offsets

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("check", large_offsets.CHECKS, ids=lambda check: check.__name__)
def test_each_check_of_the_script_is_right_in_a_small_size(check, kernel_device):
    assert check(2**17, kernel_device) <= large_offsets.LARGEST_ERROR


# The others start a program for each part of a buffer: minutes, interpreted. In a process
# of its own, since a wrong offset may end it.
LARGE = """
import torch
from benchmarks import large_offsets
for check in (large_offsets.grouped_inputs, large_offsets.grouped_weights):
    assert check(2**31 + 2**20, torch.device("cpu")) <= large_offsets.LARGEST_ERROR, check
"""


def test_rows_and_weights_beyond_32_bits_are_read():
    done = subprocess.run(
        [sys.executable, "-c", LARGE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"TRITON_INTERPRET": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_an_error_is_one(monkeypatch, capsys):
    """The script says so, and ends with 1."""
    monkeypatch.setattr(large_offsets, "CHECKS", (lambda elements, device: 0.5,))
    assert large_offsets.main(["--device", "cpu", "--elements", "8"]) == 1
    assert "wrong" in capsys.readouterr().out
    right = large_offsets._error(torch.ones(2), torch.ones(2))
    assert right == 0.0
    assert large_offsets._error(torch.full((2,), torch.nan), torch.ones(2)) == float("inf")
