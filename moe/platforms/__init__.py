"""The platforms: the table. One row a kind of chip, one file each; a row names its features.

Other families match on the features, never on a platform's name, so that a new chip needs no
change elsewhere. `moe.platforms.detect` finds which row this machine is, without torch. Rows of
other packages come in by the entry-point group `moe.platforms`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from moe.registry import Registry
from moe.spec import Row

if TYPE_CHECKING:
    from moe.spec import Platform


@dataclass(frozen=True, kw_only=True)
class PlatformRow(Row):
    """One kind of chip. `target` names a function without arguments that gives its `Platform`.

    arch: what detection calls such a chip (`sm90`, `gfx942`, `cpu`). device_bytes: memory of
    one device when a plan is made for it from afar; the smallest product of the kind.
    detector: "module:function", a `moe.platforms.base.Detector`; rows of one vendor share it, and
    None is for what a machine is without any device. products: words of product names, for a
    detector that can read a name only.
    """

    arch: str
    device_bytes: int = 0
    detector: str | None = None
    products: tuple[str, ...] = ()


_GB = 10**9
_NVIDIA = "moe.platforms.detect:nvidia_devices"
_AMD = "moe.platforms.detect:amd_devices"

PLATFORMS: Registry[PlatformRow] = Registry(
    "platforms",
    (
        PlatformRow(name="cpu", target="moe.platforms.cpu:platform", arch="cpu"),
        PlatformRow(
            name="cuda_sm90",
            target="moe.platforms.cuda_sm90:platform",
            arch="sm90",
            device_bytes=80 * _GB,  # H100; an H200 has 141
            detector=_NVIDIA,
            products=("H100", "H200", "H800", "H20"),
        ),
        PlatformRow(
            name="cuda_sm100",
            target="moe.platforms.cuda_sm100:platform",
            arch="sm100",
            device_bytes=180 * _GB,  # B200
            detector=_NVIDIA,
            products=("B200",),
        ),
        PlatformRow(
            name="rocm_gfx942",
            target="moe.platforms.rocm_gfx942:platform",
            arch="gfx942",
            device_bytes=192 * _GB,  # MI300X; an MI325X has 256
            detector=_AMD,
        ),
        PlatformRow(
            name="rocm_gfx950",
            target="moe.platforms.rocm_gfx950:platform",
            arch="gfx950",
            device_bytes=288 * _GB,  # MI350X and MI355X
            detector=_AMD,
        ),
    ),
)


def platform(name: str) -> Platform:
    """The platform called `name`. Raises UnknownMemberError for a name that no row has."""
    return cast("Platform", PLATFORMS.load(name)())
