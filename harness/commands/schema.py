"""Run `schema`: print the JSON Schema of the matrix file, for editors."""

from __future__ import annotations

import sys

from harness.errors import ExitCode
from harness.matrix.schema import schema


def show_schema() -> int:
    """Print the schema."""
    sys.stdout.write(schema())
    return ExitCode.PASSED
