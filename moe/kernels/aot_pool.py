"""Compile many kernels at a time, in processes that compile one after the other.

The compiler is native code: it can print to stderr, abort or hang. In another process each of them
is a refusal of one kernel, with what was printed. A process for each kernel would take longer to
load the compiler than to compile a small one.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
import tempfile
import time
import warnings
from collections import deque
from dataclasses import dataclass, replace
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, TextIO

from moe.kernels.aot_compile import Compiled, compile_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.connection import Connection

    from moe.kernels.aot_compile import Request

TIME_LIMIT = 300.0  # seconds for one kernel
_LAST_LINES = 20  # of what a compiler that died has printed
_FORK = multiprocessing.get_context("fork")  # a child has Triton loaded


@dataclass(frozen=True, kw_only=True)
class _Worker:
    """One child, and the request that it has. pipe: for requests and results. printed: its output.

    started: when it got the request.
    """

    process: Any
    pipe: Connection
    printed: TextIO
    request: Request
    started: float


def compile_all(
    requests: Iterable[Request],
    workers: int,
    *,
    time_limit: float = TIME_LIMIT,
    compiler: Callable[[Request], Compiled] = compile_request,
) -> Iterator[Compiled]:
    """Compile all requests, `workers` at a time; yield each result as it comes.

    A kernel that the compiler refuses, dies of, or does not finish in `time_limit` seconds has a
    `refusal`; after the latter two another child takes the place of the one that had it.
    """
    waiting, running = deque(requests), dict[Any, _Worker]()
    idle: list[_Worker] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                worker = _given(idle.pop() if idle else None, waiting.popleft(), compiler)
                running[worker.pipe] = worker
            for ready in wait(list(running), timeout=1.0):
                worker = running.pop(ready)
                result = _result(worker)
                if worker.process.exitcode is None:
                    idle.append(worker)
                yield result
            for late in [pipe for pipe, of in running.items() if _seconds(of) > time_limit]:
                yield _expired(running.pop(late), time_limit)
    finally:
        for worker in (*running.values(), *idle):
            _end(worker)


def _seconds(worker: _Worker) -> float:
    return time.monotonic() - worker.started


def _given(
    worker: _Worker | None, request: Request, compiler: Callable[[Request], Compiled]
) -> _Worker:
    """Send a request to a child that has none, or to a new one."""
    worker = _started(request, compiler) if worker is None else worker
    worker.pipe.send(request)
    return replace(worker, request=request, started=time.monotonic())


def _started(request: Request, compiler: Callable[[Request], Compiled]) -> _Worker:
    pipe, child_end = _FORK.Pipe()
    printed = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - see _result, _end
    # The child closes its copy of this end, so that it ends when this process is gone.
    process = _FORK.Process(target=_serve, args=(compiler, child_end, pipe, printed.fileno()))
    process.start()
    child_end.close()
    return _Worker(process=process, pipe=pipe, printed=printed, request=request, started=0.0)


def _serve(
    compiler: Callable[[Request], Compiled], pipe: Connection, other_end: Connection, printed: int
) -> None:
    """Run in the child: compile each request, and send the result with every warning."""
    other_end.close()
    os.environ["TRITON_ALWAYS_COMPILE"] = "1"  # a binary from Triton's cache comes without warnings
    for stream in (1, 2):
        os.dup2(printed, stream)
    flush_native = ctypes.CDLL(None).fflush  # what native code has printed
    while True:
        try:
            request = pipe.recv()
        except EOFError:
            return
        result = _compiled(request, compiler)
        sys.stdout.flush()
        sys.stderr.flush()
        flush_native(None)
        pipe.send(result)


def _compiled(request: Request, compiler: Callable[[Request], Compiled]) -> Compiled:
    """Return the result with what Python warned of, and the processor's time."""
    before = sum(os.times()[:4])  # of this process and its children, such as the assembler
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        try:
            result = compiler(request)
        except Exception as error:  # the compiler may raise anything
            result = _refused(request, _reason(error))
    texts = [f"{warning.category.__name__}: {warning.message}" for warning in issued]
    seconds = round(sum(os.times()[:4]) - before, 2)
    return replace(result, warnings=tuple(dict.fromkeys(texts)), seconds=seconds)


def _reason(error: BaseException) -> str:
    """Return the innermost cause of a failed compilation; outer ones repeat the source code."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip() if lines else 'no message'}"


def _refused(request: Request, reason: str) -> Compiled:
    return Compiled(
        chip=request.chip,
        kernel=request.name,
        label=request.label,
        key=request.key,
        shared_bytes=0,
        seconds=0.0,
        refusal=reason,
    )


def _result(worker: _Worker) -> Compiled:
    """Return a child's result, with the lines that it printed among the warnings."""
    try:
        result: Compiled = worker.pipe.recv()
    except EOFError:  # it died
        worker.process.join()
        lines = " | ".join(_printed(worker)[-_LAST_LINES:]) or "it printed nothing"
        code = worker.process.exitcode
        _end(worker)
        return _refused(worker.request, f"the compiler died (exit code {code}): {lines}")
    return replace(result, warnings=(*result.warnings, *dict.fromkeys(_printed(worker))))


def _expired(worker: _Worker, time_limit: float) -> Compiled:
    _end(worker)
    return _refused(worker.request, f"the compiler did not finish in {time_limit:g} s")


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.pipe.close()
    worker.printed.close()


def _printed(worker: _Worker) -> list[str]:
    """Return the lines that a child has printed, and empty their file for the next request."""
    file = worker.printed
    file.seek(0)
    lines = [line.strip() for line in file.read().splitlines() if line.strip()]
    file.seek(0)  # the child's place, too, and it waits
    file.truncate()
    return lines
