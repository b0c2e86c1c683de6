"""A module of a package, or a function of it, is reached without what the package imports."""

import importlib
import sys
from types import SimpleNamespace

import pytest

from moe.package_parts import definitions, enter


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


def test_functions_of_a_module_run_without_its_imports(broken_package, tmp_path):
    (tmp_path / broken_package / "topk.py").write_text(
        "import no_such_package\n"
        "LEAST = 2\n"
        "@no_such_package.compiled\n"
        "def largest(x: no_such_package.Tensor):\n"
        "    return max(x, LEAST, envs.LEAST)\n"
    )
    module = f"{broken_package}.topk"
    found = definitions(module, "LEAST", "largest", given={"envs": pytest})
    assert (sorted(found), found["LEAST"]) == (["LEAST", "largest"], 2)
    with pytest.raises(AttributeError, match="LEAST"):  # of what was given
        found["largest"](3)
    assert broken_package not in sys.modules
    with pytest.raises(ImportError, match=r"topk' defines no 'smallest'"):
        definitions(module, "smallest", given={})
    with pytest.raises(ModuleNotFoundError, match=r"No module named '.*\.other'"):
        definitions(f"{broken_package}.other", "largest", given={})


def test_a_decorator_stays_if_it_is_asked_for(broken_package, tmp_path):
    (tmp_path / broken_package / "kernels.py").write_text(
        "@triton.jit\n@no_such_package.compiled\ndef kernel():\n    pass\n"
    )
    module = f"{broken_package}.kernels"
    given = {"triton": SimpleNamespace(jit=lambda function: (function.__module__, function))}
    name, function = definitions(module, "kernel", given=given, decorators=("triton.jit",))[
        "kernel"
    ]
    assert (name, function.__name__) == (f"{module}:kernel", "kernel")
    assert definitions(module, "kernel", given=given)["kernel"].__name__ == "kernel"
