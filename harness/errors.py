"""User errors and the process's exit codes.

HarnessError            base; exit 3 unless a subclass says otherwise
├── ConfigError         matrix.yaml: every error at once, with file:line:column
├── CaseError           a case id or field that cannot be
├── UsageError          command-line arguments that do not fit together
├── NothingSelected     no case is left to run (exit 4)
└── InfrastructureError the machine failed, not the code under test (exit 75, worth a retry)
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What the process returns; 128 + signal number when a signal ended it."""

    PASSED = 0
    FAILED = 1
    INCOMPLETE = 2  # interrupted; `run --resume DIR` goes on
    USAGE = 3
    NOTHING_SELECTED = 4
    INFRASTRUCTURE = 75


class HarnessError(Exception):
    """An expected error: its text is all that the user is shown."""

    exit_code: ClassVar[ExitCode] = ExitCode.USAGE


class ConfigError(HarnessError):
    """A matrix file that cannot be used; `errors` has one line for each error in it."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


class CaseError(HarnessError, ValueError):
    """A case id that cannot be read, or a field with an impossible value."""


class UsageError(HarnessError):
    """Command-line arguments that do not fit together."""


class NothingSelected(HarnessError):
    """A run that would test nothing."""

    exit_code = ExitCode.NOTHING_SELECTED


class InfrastructureError(HarnessError):
    """The machine failed, not the code under test."""

    exit_code = ExitCode.INFRASTRUCTURE
