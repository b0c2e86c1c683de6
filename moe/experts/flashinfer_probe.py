"""Whether FlashInfer can serve a problem here: asked while planning, so without importing torch.

FlashInfer compiles its fused-MoE module on the first call, which takes longer than any case may.
It is therefore chosen only where a built module is found: shipped with FlashInfer, in one of its
prebuilt-module packages, or left in its cache by an earlier compilation.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from moe.spec import Reason, reads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moe.spec import Platform, Problem

MODULE = "fused_moe_90"  # the module of chips with the feature `sm90`, as FlashInfer calls it
_PROVIDERS = "flashinfer.jit_cache.providers"  # entry points of prebuilt-module packages, 0.7 on
_ROW_BYTES = 16  # the tensor-memory unit moves rows of a multiple of this


@reads("hidden", "intermediate", "layout", "scheme")
def built(problem: Problem, platform: Platform) -> Reason | None:
    """None where the kernel takes the problem's sizes and its module is there, else why not."""
    del platform  # the row's features have already been matched
    return _misaligned(problem) or _not_built()


def _misaligned(problem: Problem) -> Reason | None:
    """8-bit weights need sizes of a multiple of 16, 16-bit ones of 8."""
    multiple = _ROW_BYTES // (problem.scheme.weight_bytes or 2)
    sizes = (("hidden size", problem.hidden), *(("shard", n) for n in problem.shard_sizes))
    for what, size in sizes:
        if size % multiple:
            text = f"{what} {size} is no multiple of {multiple}, as {problem.scheme.weights} needs"
            return Reason(code="size_not_multiple", text=text)
    return None


@cache
def _not_built() -> Reason | None:
    """Asked once a process: plans ask for thousands of cases."""
    folders = list(_folders())
    if any((folder / MODULE / f"{MODULE}.so").is_file() for folder in folders):
        return None
    looked = ", ".join(map(str, folders)) or "nowhere: flashinfer is not installed"
    text = (
        f"no built {MODULE}.so (looked in {looked}); install FlashInfer's prebuilt modules "
        "(flashinfer-jit-cache, of the version of flashinfer-python)"
    )
    return Reason(code="module_not_built", text=text)


def _folders() -> Iterator[Path]:
    """Each folder from which FlashInfer would load a module without compiling it."""
    package = _location("flashinfer")
    if package is None:
        return
    yield package / "data" / "aot"
    prebuilt = _location("flashinfer_jit_cache")
    if prebuilt is not None:
        yield prebuilt / "jit_cache"
    for provider in importlib.metadata.entry_points(group=_PROVIDERS):
        yield Path(str(provider.load()()["jit_cache_dir"]))
    base = Path(os.environ.get("FLASHINFER_WORKSPACE_BASE", Path.home()))
    yield from sorted((base / ".cache" / "flashinfer" / _version()).glob("*/cached_ops"))


def _location(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _version() -> str:
    """Of the installed package; a module compiled by another one is not used."""
    try:
        return importlib.metadata.version("flashinfer-python")
    except importlib.metadata.PackageNotFoundError:
        return "0.0.0+unknown"  # what FlashInfer calls itself when run from its sources
