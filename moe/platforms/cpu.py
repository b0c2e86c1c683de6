"""Describe a machine without a GPU: a rank is a process, and Triton kernels are interpreted."""

from __future__ import annotations

import importlib.util
import os

from moe.spec import Platform


def platform() -> Platform:
    """Return the platform; it has the feature `triton` if Triton's interpreter works.

    `fp8_e4m3` and `fp8_e4m3fnuz` are there: float32 arithmetic multiplies codes of any format
    exactly. Interpreters before Triton 3.9 do not read e4m3fnuz.
    """
    usable = importlib.util.find_spec("triton") is not None and interpreter_fault() is None
    features = {"cpu", "fp8_e4m3", *(("triton",) if usable else ())}
    if not usable or _installed("triton") >= (3, 9):
        features.add("fp8_e4m3fnuz")
    if hasattr(os, "memfd_create"):  # of Linux: memory that processes of one host share
        features.add("peer_memory")
    return Platform(name="cpu", device="cpu", features=frozenset(features), interpreted=True)


def interpreter_fault() -> str | None:
    """Return why the installed Triton cannot interpret with the installed numpy, or None.

    Triton's interpreter before 3.9 fails on run-time loop bounds with numpy 2.4 and later.
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


def _installed(package: str) -> tuple[int, int]:
    """Return (major, minor) of an installed package."""
    from importlib.metadata import version

    return _release(version(package))


def _release(version: str) -> tuple[int, int]:
    """Return (major, minor) of a version such as `"3.9.0+cpu"`."""
    major, minor, *_ = version.split("+")[0].split(".")
    return int(major), int(minor)
