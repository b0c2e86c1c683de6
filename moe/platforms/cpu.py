"""A machine without a GPU: ranks are processes, Triton kernels run in the interpreter."""

from __future__ import annotations

import importlib.util

from moe.spec import Platform


def platform() -> Platform:
    """`triton` is among the features where it is installed and its interpreter works."""
    usable = importlib.util.find_spec("triton") is not None and interpreter_fault() is None
    features = {"cpu", "triton"} if usable else {"cpu"}
    return Platform(name="cpu", device="cpu", features=frozenset(features), interpreted=True)


def interpreter_fault() -> str | None:
    """Why the installed Triton cannot interpret with the installed numpy, or None.

    Before 3.9 the interpreter breaks on run-time loop bounds with numpy 2.4 and later.
    """
    from importlib.metadata import PackageNotFoundError, version

    try:
        triton, numpy = version("triton"), version("numpy")
    except PackageNotFoundError:
        return None
    if _release(triton) < (3, 9) and _release(numpy) >= (2, 4):
        return (
            f"triton {triton} cannot interpret kernels with numpy {numpy}; "
            "install triton>=3.9 or numpy<2.4"
        )
    return None


def _release(version: str) -> tuple[int, int]:
    """Major and minor number of `"3.9.0+cpu"`."""
    major, minor, *_ = version.split("+")[0].split(".")
    return int(major), int(minor)
