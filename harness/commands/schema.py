"""Run `schema`: print the JSON Schema of a file of configs/, for editors."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from harness.errors import ExitCode
from harness.matrix.models import ModelFile
from harness.matrix.schema import MatrixConfig, schema
from harness.record.known_failures import KnownFailuresFile

if TYPE_CHECKING:
    import argparse


def show_schema(args: argparse.Namespace) -> int:
    """Print the schema."""
    model = ModelFile if args.models else MatrixConfig
    sys.stdout.write(schema(KnownFailuresFile if args.known_failures else model))
    return ExitCode.PASSED
