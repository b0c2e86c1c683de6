"""List the families of members and the table of rows of each. Torch-free.

A table is imported on use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moe.spec import resolve

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from moe.registry import Registry

# Family -> "module:TABLE". A case names one member of each family in a field of the same name; only
# the platform is not part of a case but detected: see moe.platforms.detect.
FAMILIES = {
    "experts": "moe.experts:EXPERTS",
    "all2all": "moe.all2all:ALL2ALL",
    "quant": "moe.quant:QUANT",
    "router": "moe.routers:ROUTERS",
    "activation": "moe.activations:ACTIVATIONS",
    "layer": "moe.layers:LAYERS",
    "platform": "moe.platforms:PLATFORMS",
}
CASE_FAMILIES = tuple(family for family in FAMILIES if family != "platform")
MEMBERS = ("experts", "all2all", "quant")  # the fields of moe.layer.Members
SERVED = (*MEMBERS, "router")  # families whose classes a built layer reports


def table(family: str) -> Registry[Any]:
    """Return the table of `family`. Raises KeyError for a name that is not in FAMILIES."""
    registry: Registry[Any] = resolve(FAMILIES[family])
    return registry


def tables(names: Iterable[str] = tuple(FAMILIES)) -> Iterator[tuple[str, Registry[Any]]]:
    """Yield (family, its table) for each of `names`."""
    return ((family, table(family)) for family in names)
