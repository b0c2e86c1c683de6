"""Check whether FlashInfer's fused MoE is built for a chip on this machine. Torch-free.

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

# Features of a chip -> FlashInfer's name of its module.
MODULES = {"sm90": "fused_moe_90", "sm100": "fused_moe_100", "sm120": "fused_moe_120"}
_PROVIDERS = "flashinfer.jit_cache.providers"  # entry points of prebuilt-module packages, since 0.7


@reads()
def built(_: LayerSpec, platform: Platform) -> Reason | None:
    """Return None if the chip's module is built, otherwise the reason."""
    modules = [name for chip, name in MODULES.items() if chip in platform.features]
    if not modules:
        text = f"has modules for {', '.join(MODULES)}, not for {platform.name}"
        return Reason(code="platform_lacks_feature", text=text)
    return _not_built(modules[0])


@cache
def _not_built(module: str) -> Reason | None:
    """Refuse if no built module exists; searched once per process."""
    folders = list(_folders())
    if any((folder / module / f"{module}.so").is_file() for folder in folders):
        return None
    searched = ", ".join(map(str, folders)) or "nowhere: flashinfer is not installed"
    text = (
        f"no built {module}.so (searched {searched}); install FlashInfer's prebuilt modules "
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
