"""Import modules of a package without running the package's own `__init__`.

Large packages import their whole client and server there, and what those need, before anybody can
reach one kernel.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec


def enter(package: str) -> None:
    """Let modules of a top-level package be imported without its `__init__`.

    A package that was imported before stays as it is. Raises ModuleNotFoundError if it is not
    installed.
    """
    if package in sys.modules:
        return
    spec = find_spec(package)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    sys.modules[package] = module_from_spec(spec)
