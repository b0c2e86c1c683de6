"""A module of a package is imported without the package's `__init__`."""

import importlib
import sys

import pytest

from moe.package_parts import enter


@pytest.fixture
def broken_package(tmp_path, monkeypatch):
    """Put a package on the path whose `__init__` raises, and that has a module `part`."""
    folder = tmp_path / "broken_package_of_tests"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('the whole package')\n")
    (folder / "part.py").write_text("VALUE = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder.name
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        del sys.modules[name]


def test_a_part_is_imported_without_the_package(broken_package):
    with pytest.raises(RuntimeError, match="the whole package"):
        importlib.import_module(f"{broken_package}.part")
    enter(broken_package)
    assert importlib.import_module(f"{broken_package}.part").VALUE == 3


def test_a_package_that_was_imported_stays():
    enter("pytest")
    assert sys.modules["pytest"] is pytest


def test_a_package_that_is_not_there():
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_package'"):
        enter("no_such_package")
