"""Define the errors that users see, and the exit codes of the process.

HarnessError            base; exit 3 unless a subclass says otherwise
├── ConfigError         matrix.yaml: all errors at once, with file:line:column
├── CaseError           an invalid case id, or a field with an invalid value
├── UsageError          command-line arguments that do not fit together
├── NothingSelected     no case is left to run (exit 4)
└── InfrastructureError the machine failed, not the code under test (exit 75, worth a retry)
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Name the exit codes of the process; 128 + signal number if a signal ended it."""

    PASSED = 0
    FAILED = 1
    INCOMPLETE = 2  # interrupted; continue with `run --resume DIR`
    USAGE = 3
    NOTHING_SELECTED = 4
    INFRASTRUCTURE = 75


class HarnessError(Exception):
    """Report an expected error: its text is all that the user sees."""

    exit_code: ClassVar[ExitCode] = ExitCode.USAGE


class ConfigError(HarnessError):
    """Report a matrix file that cannot be used; `errors` has one line per error."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        """Return how another process makes it again: from its lines, not from its text."""
        return type(self), (self.errors,)


class CaseError(HarnessError, ValueError):
    """Report a case id that cannot be read, or a field with an invalid value."""


class UsageError(HarnessError):
    """Report command-line arguments that do not fit together."""


class NothingSelected(HarnessError):
    """Report a run that would test nothing."""

    exit_code = ExitCode.NOTHING_SELECTED


class InfrastructureError(HarnessError):
    """Report a failure of the machine, not of the code under test."""

    exit_code = ExitCode.INFRASTRUCTURE


def reason_of(error: Exception) -> str:
    """Return why a file could not be read or written: an OSError without its number and path."""
    if isinstance(error, UnicodeDecodeError):
        return f"not text in UTF-8: byte {error.start} is {error.object[error.start]:#04x}"
    return (isinstance(error, OSError) and error.strerror) or str(error)
