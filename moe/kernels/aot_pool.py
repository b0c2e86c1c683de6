"""Compile many kernels at a time, each in a process of its own.

The compiler is native code: it can print to stderr, abort or hang. In a process of its own each of
them is a refusal of one kernel, with what was printed.
"""

from __future__ import annotations

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
class _Running:
    """One child. printed: its stdout and stderr."""

    request: Request
    process: Any
    printed: TextIO
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
    `refusal`.
    """
    waiting, running = deque(requests), dict[Any, _Running]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                receiver, child = _start(waiting.popleft(), compiler)
                running[receiver] = child
            for ready in wait(list(running), timeout=1.0):
                yield _result(ready, running.pop(ready))
            for late in [r for r, child in running.items() if _seconds(child) > time_limit]:
                yield _expired(running.pop(late), time_limit)
    finally:
        for child in running.values():
            _end(child)


def _seconds(child: _Running) -> float:
    return time.monotonic() - child.started


def _start(
    request: Request, compiler: Callable[[Request], Compiled]
) -> tuple[Connection, _Running]:
    """Start a child; return the end of the pipe on which its result comes, and the child."""
    receiver, sender = _FORK.Pipe(duplex=False)
    printed = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - see _printed, _end
    process = _FORK.Process(target=_compile, args=(request, compiler, sender, printed.fileno()))
    process.start()
    sender.close()
    child = _Running(request=request, process=process, printed=printed, started=time.monotonic())
    return receiver, child


def _compile(
    request: Request, compiler: Callable[[Request], Compiled], sender: Connection, printed: int
) -> None:
    """Run in the child: compile, and send the result with every warning."""
    os.environ["TRITON_ALWAYS_COMPILE"] = "1"  # a binary from Triton's cache comes without warnings
    for stream in (1, 2):
        os.dup2(printed, stream)
    with warnings.catch_warnings(record=True) as issued:
        warnings.simplefilter("always")
        try:
            result = compiler(request)
        except Exception as error:  # the compiler may raise anything
            result = _refused(request, _reason(error))
    sys.stdout.flush()
    sys.stderr.flush()
    texts = [f"{warning.category.__name__}: {warning.message}" for warning in issued]
    seconds = round(sum(os.times()[:4]), 2)  # of this process and the assembler's
    sender.send(replace(result, warnings=tuple(dict.fromkeys(texts)), seconds=seconds))


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


def _result(receiver: Any, child: _Running) -> Compiled:
    """Return the child's result, with the lines that it printed among the warnings."""
    try:
        result: Compiled = receiver.recv()
    except EOFError:  # it died
        child.process.join()
        lines = " | ".join(_printed(child)[-_LAST_LINES:]) or "it printed nothing"
        code = child.process.exitcode
        return _refused(child.request, f"the compiler died (exit code {code}): {lines}")
    child.process.join()
    return replace(result, warnings=(*result.warnings, *dict.fromkeys(_printed(child))))


def _expired(child: _Running, time_limit: float) -> Compiled:
    _end(child)
    return _refused(child.request, f"the compiler did not finish in {time_limit:g} s")


def _end(child: _Running) -> None:
    child.process.kill()
    child.process.join()
    child.printed.close()


def _printed(child: _Running) -> list[str]:
    """Return the lines that a child printed, and close their file."""
    with child.printed as file:
        file.seek(0)
        return [line.strip() for line in file.read().splitlines() if line.strip()]
