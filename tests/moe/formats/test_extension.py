"""A number format, as another package brings it: a folder, its rows as entry points, no more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

SPEC = '''
"""int8 with one scale for each expert's matrix; activations stay as they are."""
from moe.formats.format import Format
from moe.quant import QuantRow
from moe.spec import Scheme

FORMAT = Format(
    name="s8_matrix",
    target="s8_matrix.codec:S8",
    truth="s8_matrix.truth:S8Truth",
    grid="s8",
    top=127.0,
    block=(None, None),
    exact_scale={exact},
)
METHOD = QuantRow(
    name="s8_weights",
    target="s8_matrix.method:S8Weights",
    scheme=Scheme(weights="s8_matrix", activations="model", weight_bytes=1),
)
'''
CODEC = """
import torch
from moe.formats.codec import Codec

class S8(Codec):
    dtype = torch.int8

    def encode(self, x):
        return x.clamp(-127, 127).round().to(torch.int8)
"""
TRUTH = """
import torch

class S8Truth:
    def step_of(self, x):
        return torch.full_like(x, {step})
"""
METHOD = """
from moe.formats import FORMATS
from moe.quant.base import QuantMethod, quantize_pair
from moe.types import Activations

class S8Weights(QuantMethod):
    def quantize_weights(self, w13, w2):
        return quantize_pair(w13, w2, FORMATS["s8_matrix"])

    def quantize_input(self, x, a1_scale):
        return Activations(codes=x)
"""
ENTRIES = """[moe.formats]
s8 = s8_matrix.spec:FORMAT
[moe.quant]
s8 = s8_matrix.spec:METHOD
"""
BASE = "m:6-n:64-k:128-e:4-topk:2"
CASES = (
    f"{BASE}-experts:torch_loop-quant:s8_weights",
    "m:3-n:128-k:256-e:4-topk:1-experts:torch_loop-quant:s8_weights",
    "m:9-n:48-k:192-e:8-topk:4-dtype:fp16-experts:torch_loop-quant:s8_weights",
)
EXACT = f"{BASE}-experts:torch_loop-quant:s8_weights-exact"


@pytest.fixture
def package(tmp_path):
    """Write the folder and its installation record; tests may then change a file."""

    def write(step=1.0, exact=False):
        folder, info = tmp_path / "s8_matrix", tmp_path / "s8_matrix-1.dist-info"
        folder.mkdir()
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: s8-matrix\nVersion: 1\n")
        (info / "entry_points.txt").write_text(ENTRIES)
        (folder / "__init__.py").write_text("")
        (folder / "spec.py").write_text(SPEC.format(exact=exact))
        (folder / "codec.py").write_text(CODEC)
        (folder / "truth.py").write_text(TRUTH.format(step=step))
        (folder / "method.py").write_text(METHOD)
        return tmp_path

    return write


def harness(folder, *words):
    paths = os.pathsep.join([str(folder), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "harness", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=200,
    )


def test_cases_in_the_new_format_pass_with_nothing_else_changed(package):
    found = harness(package(), "run", "--case", *CASES)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "passed=3 failed=0" in found.stdout


def test_the_truth_of_the_folder_is_what_judges(package):
    found = harness(package(step=4.0), "run", "--case", CASES[0], "--retries", "0")
    assert found.returncode == 1
    assert " passed=0 failed=1" in found.stdout


def test_exact_mode_is_refused_where_the_row_does_not_promise_it(package):
    found = harness(package(), "run", "--case", EXACT, CASES[0])
    assert " passed=1 failed=0" in found.stdout
    assert "exact_unsupported" in found.stdout


def test_a_promise_that_does_not_hold_is_no_pass(package):
    """One scale for gate and up: beside int8's largest code `up` is lost."""
    found = harness(package(exact=True), "run", "--case", EXACT, "--retries", "0")
    assert found.returncode == 1
    assert " passed=0 failed=0" in found.stdout


def test_a_backend_that_does_not_name_the_format_is_refused(package):
    found = harness(package(), "run", "--case", f"{BASE}-experts:triton-quant:s8_weights", CASES[0])
    assert " passed=1 failed=0" in found.stdout
    assert "weight_format_unsupported" in found.stdout
