"""Run `schema`: print the JSON Schema of a file of configs/, for editors."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from harness.errors import ExitCode
from harness.matrix.models import ModelFile
from harness.matrix.schema import MatrixConfig, schema
from harness.record.known_failures import KnownFailuresFile
from harness.record.regressions import RegressionsFile

if TYPE_CHECKING:
    import argparse

    from pydantic import BaseModel


def show_schema(args: argparse.Namespace) -> int:
    """Print the schema."""
    asked: dict[type[BaseModel], bool] = {
        ModelFile: args.models,
        KnownFailuresFile: args.known_failures,
        RegressionsFile: args.regressions,
    }
    model = next((model for model, is_asked in asked.items() if is_asked), MatrixConfig)
    sys.stdout.write(schema(model))
    return ExitCode.PASSED
