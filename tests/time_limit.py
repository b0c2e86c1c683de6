"""End a test that runs longer than `timeout` of pyproject.toml, so that no CI run hangs.

pytest-timeout makes such a test fail, with its stack, and the rest goes on. It needs Python code
to run: a test that waits in C, without a look at signals, is ended here, with its process, a fifth
of the limit later. Workers of xdist are then replaced, and the test is named as the crash.
"""

from __future__ import annotations

import faulthandler
import importlib.util
import os
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

_SLACK = 1.2  # of the limit: after pytest-timeout had its turn
_stderr = pytest.StashKey[int]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the settings where pytest-timeout is missing: an interpreter used as it is."""
    if importlib.util.find_spec("pytest_timeout") is None:
        parser.addini("timeout", "limit of a test in seconds")
        parser.addini("timeout_method", "how pytest-timeout ends a test")


def pytest_configure(config: pytest.Config) -> None:
    """Keep the terminal's stderr: while a test runs, file 2 is captured."""
    config.stash[_stderr] = os.dup(sys.__stderr__.fileno() if sys.__stderr__ else 2)


def pytest_unconfigure(config: pytest.Config) -> None:
    os.close(config.stash[_stderr])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    seconds = _limit(item)
    if seconds <= 0 or item.config.getoption("usepdb"):
        return (yield)
    faulthandler.dump_traceback_later(seconds * _SLACK, exit=True, file=item.config.stash[_stderr])
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def _limit(item: pytest.Item) -> float:
    """Return a test's seconds: those of its mark, or else of pyproject.toml."""
    mark = item.get_closest_marker("timeout")
    return float(mark.args[0] if mark else item.config.getini("timeout") or 0)
