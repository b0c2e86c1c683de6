"""Write to standard streams that may be lost: a reader that goes away changes no exit code.

If a pipe is closed (`| head`, a `tee` that died, `>&-`), its output is discarded, and the command
runs to its end with its own exit code. An output that could not be stored (a full disk) is an
error.
"""

from __future__ import annotations

import errno
import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

from harness.errors import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLOSED = (errno.EPIPE, errno.EBADF)


class Stream:
    """Write to a standard stream until it is lost, then discard. `error` is why it was lost."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        try:
            return len(text) if self.error else self._stream.write(text)
        except OSError as error:
            self._lose(error)
            return len(text)

    def writelines(self, lines: list[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @property
    def is_stored(self) -> bool:
        """Return False if the output was not stored although no reader closed it."""
        if self.error is None or self.error.errno in _CLOSED:
            return True
        return self._terminal and self.error.errno == errno.EIO  # a terminal that hung up

    def _lose(self, error: OSError) -> None:
        """Point the descriptor at the null device, so that the last flush succeeds."""
        self.error = self.error or error
        with suppress(OSError):  # a stream without a descriptor has nothing to be flushed
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)
            self._stream.flush()


@contextmanager
def standard_streams() -> Iterator[Stream]:
    """Make `sys.stdout` and `sys.stderr` survive their readers; yield standard output."""
    _open_closed_descriptors()
    before = sys.stdout, sys.stderr
    out, err = Stream(before[0] or _on(1)), Stream(before[1] or _on(2))
    sys.stdout, sys.stderr = cast("TextIO", out), cast("TextIO", err)
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def code_with_output(code: int, out: Stream) -> int:
    """Return the exit code of a command, or 75 if it would hide a lost output."""
    if out.is_stored or code not in (ExitCode.PASSED, ExitCode.INCOMPLETE):
        return code
    text = f"standard output could not be written: {out.error}; exit code 75 instead of {code}"
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)
    return ExitCode.INFRASTRUCTURE


def _open_closed_descriptors() -> None:
    """Open 0-2 if they are closed: else the next opened file would be standard output."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _on(descriptor: int) -> TextIO:
    """Return a stream on a descriptor that was closed when the interpreter started."""
    return open(descriptor, "w", encoding="utf-8", closefd=False)
