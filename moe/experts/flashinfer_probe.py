"""Check whether FlashInfer's fused MoE can serve a layer on this machine. Torch-free.

FlashInfer compiles its fused-MoE module on the first call, which takes longer than the time limit
of a case. The backend is therefore refused unless a built module exists: shipped with FlashInfer,
in one of its prebuilt-module packages, or in its cache from an earlier compilation.
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

    from moe.spec import LayerSpec, Platform

MODULE = "fused_moe_90"  # FlashInfer's name of the module for the feature `sm90`
_PROVIDERS = "flashinfer.jit_cache.providers"  # entry points of prebuilt-module packages, since 0.7
_ROW_BYTES = 16  # the tensor memory accelerator needs rows of a multiple of this


@reads("hidden", "intermediate", "layout", "scheme")
def built(layer_spec: LayerSpec, platform: Platform) -> Reason | None:
    """Return None if the kernel supports the layer's sizes and is built, otherwise the reason."""
    del platform  # the row's features have already been matched
    return _misaligned(layer_spec) or _not_built()


def _misaligned(layer_spec: LayerSpec) -> Reason | None:
    """Refuse sizes that are not a multiple of 16 (8-bit weights) or 8 (16-bit weights)."""
    multiple = _ROW_BYTES // (layer_spec.scheme.weight_bytes or 2)
    sizes = (("hidden size", layer_spec.hidden), *(("shard", n) for n in layer_spec.shard_sizes))
    weights = layer_spec.scheme.weights
    for size_name, size in sizes:
        if size % multiple:
            text = f"{size_name} {size} is not a multiple of {multiple}, as {weights} needs"
            return Reason(code="size_not_multiple", text=text)
    return None


@cache
def _not_built() -> Reason | None:
    """Refuse if no built module exists; searched once per process."""
    folders = list(_folders())
    if any((folder / MODULE / f"{MODULE}.so").is_file() for folder in folders):
        return None
    searched = ", ".join(map(str, folders)) or "nowhere: flashinfer is not installed"
    text = (
        f"no built {MODULE}.so (searched {searched}); install FlashInfer's prebuilt modules "
        "(flashinfer-jit-cache, of the version of flashinfer-python)"
    )
    return Reason(code="module_not_built", text=text)


def _folders() -> Iterator[Path]:
    """Yield each folder from which FlashInfer would load a module without compiling it."""
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
    """Return the folder of an installed package, without importing it; None if it is missing."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0])


def _version() -> str:
    """Return FlashInfer's version; modules compiled by other versions are not used."""
    try:
        return importlib.metadata.version("flashinfer-python")
    except importlib.metadata.PackageNotFoundError:
        return "0.0.0+unknown"  # FlashInfer's own version when it runs from sources
