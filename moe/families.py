"""The families, listed once: what a layer is built of, and where each one's table of rows is.

A table is imported when it is asked for. No torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from moe.spec import resolve

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from moe.registry import Registry

# Of each family but the last a case names one member, in the field that is called like the family.
# The platform is the machine's: see moe.platforms.detect.
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
MEMBERS = ("experts", "all2all", "quant")  # what a layer is built from: see moe.layer.Members
SERVED = (*MEMBERS, "router")  # whose classes a built layer names


def table(family: str) -> Registry[Any]:
    """The table of rows of `family`, a key of FAMILIES."""
    registry: Registry[Any] = resolve(FAMILIES[family])
    return registry


def tables(names: Iterable[str] = tuple(FAMILIES)) -> Iterator[tuple[str, Registry[Any]]]:
    """(family, its table) for each of `names`."""
    return ((family, table(family)) for family in names)
