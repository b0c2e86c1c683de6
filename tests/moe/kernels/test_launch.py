"""Starting kernels, writing starts down, and compiling what was written down."""

import subprocess
import sys

import pytest
import torch

from moe.errors import MoEError
from moe.kernels import launch
from moe.kernels.activation import activate
from moe.kernels.aot_compile import compile_launches
from moe.kernels.combine import combine


def test_no_program_no_start(kernel_device):
    with pytest.raises(TypeError, match="not subscriptable"):
        launch.launch(None, (3, 1), kernel_device)
    launch.launch(None, (3, 0), kernel_device)


def test_a_recording_runs_nothing_and_keeps_what_would_run():
    h = torch.empty(4, 64, dtype=torch.bfloat16, device="meta")
    with launch.recording(64 * 1024) as launches:
        out = activate(h)
        assert launch.shared_bytes(h.device) == 64 * 1024
    assert out.shape == (4, 32)
    assert [item.kernel.__name__ for item in launches] == ["_activate"]
    assert launches[0].args[0] is h
    assert launches[0].options["ROWS"] == (4 if launch.INTERPRETED else 1)


def test_kernels_are_called_on_devices_and_while_recording():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert (launch.runs_kernels(cpu), launch.runs_kernels(gpu)) == (False, True)
    with launch.recording(1):
        assert launch.runs_kernels(torch.device("meta"))
        assert launch.runs_kernels(cpu)


def test_recordings_end(kernel_device):
    with pytest.raises(RuntimeError, match="stop"), launch.recording(1) as launches:
        raise RuntimeError("stop")
    ids = torch.zeros(1, 1, dtype=torch.int32, device=kernel_device)
    one = torch.ones(1, 1, device=kernel_device)
    assert combine(one, one, ids).tolist() == [[1.0]]
    assert launches == []


@pytest.mark.skipif(not launch.INTERPRETED, reason="kernels are compiled in this process")
def test_compiling_in_an_interpreting_process_is_refused():
    with pytest.raises(MoEError, match="unset TRITON_INTERPRET to compile"):
        next(compile_launches([], "sm90"))


_ON_THE_CPU = """
import torch
from moe.kernels.activation import activate
try:
    activate(torch.zeros(1, 2))
except ValueError as error:
    print(error)
"""


def test_compiled_kernels_refuse_tensors_on_the_cpu(environment_to_compile):
    """Without that check the process would die in the driver."""
    command = [sys.executable, "-c", _ON_THE_CPU]
    done = subprocess.run(command, env=environment_to_compile, capture_output=True, text=True)
    assert "on device 'cpu', but kernels are compiled in this process" in done.stdout, done.stderr
    assert "TRITON_INTERPRET=1 before triton is imported" in done.stdout
