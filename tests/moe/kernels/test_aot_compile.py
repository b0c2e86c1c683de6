"""The experts' kernels compile for chips that are not here, and fit their shared memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from moe.kernels.aot_compile import CHIPS

_SCRIPT = Path(__file__).with_name("compile_for_chips.py")
_CHIPS = ("sm90", "gfx942", "sm100", "gfx950")
_KERNELS = {
    *("_count", "_place", "_grouped_gemm", "_activate", "_combine"),
    *("_encode_tensor", "_encode_rows", "_amax_rows", "_scale_of_parts"),
}


@pytest.fixture(scope="module")
def compiled(environment_to_compile):
    """chip -> its lines; two processes at a time."""
    pairs = (_CHIPS[:2], _CHIPS[2:])
    running = [
        subprocess.Popen(
            [sys.executable, str(_SCRIPT), *pair],
            env=environment_to_compile,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for pair in pairs
    ]
    lines = []
    for process in running:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        lines += [json.loads(line) for line in out.splitlines()]
    return {chip: [line for line in lines if line["chip"] == chip] for chip in _CHIPS}


@pytest.mark.parametrize("chip", _CHIPS)
def test_every_kernel_compiles(chip, compiled):
    assert {line["kernel"] for line in compiled[chip]} == _KERNELS
    products = [line for line in compiled[chip] if line["kernel"] == "_grouped_gemm"]
    assert len(products) == 6  # four formats with large blocks, two products with small ones


@pytest.mark.parametrize("chip", _CHIPS)
def test_every_kernel_fits_the_shared_memory(chip, compiled):
    used = {line["kernel"]: line["shared_bytes"] for line in compiled[chip]}
    assert max(used.values()) <= CHIPS[chip].shared_bytes, used
    assert used["_grouped_gemm"] > 0
