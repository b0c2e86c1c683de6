"""Run `schema`: print the JSON Schema of the matrix file, or of the file of models, for editors."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from harness.errors import ExitCode
from harness.matrix.models import ModelFile
from harness.matrix.schema import MatrixConfig, schema

if TYPE_CHECKING:
    import argparse


def show_schema(args: argparse.Namespace) -> int:
    """Print the schema."""
    sys.stdout.write(schema(ModelFile if args.models else MatrixConfig))
    return ExitCode.PASSED
