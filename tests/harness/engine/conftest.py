"""What a rank sees of its surroundings, asked once for all tests of the engine."""

from __future__ import annotations

import pytest

from harness.testing.parallel_launch import parallel_launch
from tests.harness.engine import engine_calls


@pytest.fixture(scope="module")
def rank():
    """A rank's surroundings, as it sees them."""
    return parallel_launch(2, engine_calls.surroundings)[1]
