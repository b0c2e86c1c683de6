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
    *("_encode_tensor", "_encode_rows", "_activate_encode", "_amax_rows", "_scale_of_parts"),
    *("_place_tokens", "_put", "_put_back", "_add"),
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
    outputs = [process.communicate(timeout=300) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs[0][1] + outputs[1][1]
    lines = [json.loads(line) for out, _ in outputs for line in out.splitlines()]
    return {chip: [line for line in lines if line["chip"] == chip] for chip in _CHIPS}


@pytest.mark.parametrize("chip", _CHIPS)
def test_every_kernel_compiles(chip, compiled):
    assert {line["kernel"] for line in compiled[chip]} == _KERNELS
    products = [line for line in compiled[chip] if line["kernel"] == "_grouped_gemm"]
    assert len(products) == 6  # five formats with large blocks, one with small ones


@pytest.mark.parametrize("chip", _CHIPS)
def test_every_kernel_fits_the_shared_memory(chip, compiled):
    used = {line["kernel"]: line["shared_bytes"] for line in compiled[chip]}
    assert max(used.values()) <= CHIPS[chip].shared_bytes, used
    assert used["_grouped_gemm"] > 0


def _printed(environment, what):
    command = [sys.executable, "-m", "tests.moe.kernels.aot_kernels", what]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def facts(environment_to_compile):
    return _printed(environment_to_compile, "facts")


@pytest.fixture(scope="module")
def taken(environment_to_compile):
    """(kernel, chip) -> result of what a compiler takes, or does not."""
    results = _printed(environment_to_compile, "compiled")
    return {(result["kernel"], result["chip"]): result for result in results}


_ALIGNED, _SMALL = ["tt.divisibility", 16], ["tt.pointer_range", 32]


def test_a_launch_is_specialised_as_on_a_device(facts):
    kinds = {"x_ptr": "*fp32", "rows": "i32", "columns": "i32", "SIDE": "constexpr"}
    assert facts["signature"] == kinds
    assert facts["options"] == {"num_warps": 8, "enable_fp_fusion": True}
    assert facts["attrs"] == {"0": [_ALIGNED], "2": [_ALIGNED]}  # not of `rows`
    assert facts["odd"] == [kinds | {"columns": "constexpr"}, {}]  # 1, and 4 bytes from aligned
    assert facts["label"] == "good(*fp32 i32 i32; SIDE=64; num_warps=8)"


def test_small_tensors_are_told_to_amds_compiler_only(facts):
    assert facts["hip"] == [_ALIGNED, _SMALL]
    assert facts["large"] == [_ALIGNED]  # 4 GB


def test_equal_binaries_are_one_request(facts):
    assert facts["same"] == 1  # sizes that are not specialised, other shapes
    assert facts["different"] == 3  # another dtype, another divisibility
    assert facts["keys"] == 3  # of one launch on three chips


def test_what_a_chip_does_not_take_is_a_refusal_or_a_warning(taken):
    assert taken["good", "sm90"]["refusal"] is None
    assert "type fp8e4b8 not supported" in taken["fnuz", "sm90"]["refusal"]
    assert taken["fnuz", "gfx942"]["warnings"] == []
    (warning,) = taken["fnuz", "gfx950"]["warnings"]
    assert "upcasted to fp16" in warning


def test_shared_memory_is_measured(taken):
    used = taken["wide", "gfx942"]["shared_bytes"]
    assert used > CHIPS["gfx942"].shared_bytes
