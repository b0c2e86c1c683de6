"""What an error says of a file that cannot be read or written."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

import pytest

from harness.errors import ConfigError, reason_of

if TYPE_CHECKING:
    from pathlib import Path


def test_the_reason_is_the_system_s_words_without_number_and_path(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent") as caught:
        (tmp_path / "absent").read_text()
    assert reason_of(caught.value) == "No such file or directory"


@pytest.mark.parametrize("error", [ValueError("not JSON"), OSError("not JSON")])
def test_other_errors_are_told_as_they_are(error: Exception) -> None:
    assert reason_of(error) == "not JSON"


def test_an_error_with_several_lines_is_the_same_in_another_process() -> None:
    error = ConfigError(["m.yaml:1:1: one", "m.yaml:2:1: two"])
    received = pickle.loads(pickle.dumps(error))  # of this test
    assert (str(received), received.errors) == (str(error), error.errors)
