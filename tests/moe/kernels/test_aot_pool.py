"""Compiling in processes of their own: what a compiler does to itself is one kernel's refusal."""

import faulthandler
import os
import time
import warnings

import pytest

from moe.kernels.aot_compile import Compiled, Request
from moe.kernels.aot_pool import compile_all

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def requests(*names):
    return [
        Request(
            chip="sm90",
            kernel=f"module:{name}",
            signature={},
            constants={},
            attributes={},
            options={},
            label=f"{name}()",
            key=name,
        )
        for name in names
    ]


def compiler(request):
    """Do what the kernel's name says."""
    name = request.name
    if name == "abort":
        faulthandler.disable()
        os.write(2, b"LLVM ERROR: cannot select\n")
        os.abort()
    if name == "raise":
        try:
            raise ValueError("first line\n\nthe cause")
        except ValueError as error:
            raise RuntimeError("at 3:7: x = tl.load(p)") from error
    if name == "hang":
        time.sleep(60)
    if name == "warn":
        warnings.warn("slow", UserWarning, stacklevel=1)
        os.write(2, b"remark: spilled\nremark: spilled\n")
    if name == "print":
        os.write(1, b"on stdout\n")
    return Compiled(
        chip="sm90", kernel=name, label=request.label, key=name, shared_bytes=8, seconds=0.0
    )


def results(*names, workers=2, **options):
    every = list(compile_all(requests(*names), workers, compiler=compiler, **options))
    assert sorted(result.kernel for result in every) == sorted(names)
    return {result.kernel: result for result in every}


def test_each_request_has_one_result():
    names = [f"kernel_{i}" for i in range(7)]
    every = results(*names, workers=3)
    assert all(result.refusal is None and not result.warnings for result in every.values())
    assert all(result.shared_bytes == 8 for result in every.values())


def test_what_is_printed_or_warned_is_kept_once_each():
    every = results("warn", "print")
    assert every["warn"].warnings == ("UserWarning: slow", "remark: spilled")
    assert every["print"].warnings == ("on stdout",)
    assert every["warn"].refusal is None


def test_an_exception_is_a_refusal_by_its_innermost_cause():
    assert results("raise")["raise"].refusal == "ValueError: the cause"


def test_a_compiler_that_dies_costs_one_kernel():
    every = results("abort", "a", "b", workers=1)
    assert every["abort"].refusal == ("the compiler died (exit code -6): LLVM ERROR: cannot select")
    assert every["a"].refusal is every["b"].refusal is None


def test_a_compiler_that_hangs_is_ended():
    start = time.monotonic()
    every = results("hang", "a", workers=1, time_limit=1.0)
    assert every["hang"].refusal == "the compiler did not finish in 1 s"
    assert every["a"].refusal is None
    assert time.monotonic() - start < 30


def test_children_end_with_their_consumer():
    events = compile_all(requests("a", "hang"), 2, compiler=compiler)
    assert next(events).kernel == "a"
    child = next(iter(events.gi_frame.f_locals["running"].values()))
    assert child.process.is_alive()
    events.close()
    assert child.process.exitcode == -9
