"""List the platforms: one row and one file per kind of chip. Torch-free.

A platform is a set of features, on which the other families match; they never match on its name, so
a new chip needs no change elsewhere. `moe.platforms.detect` maps this machine to a row. Other
packages add rows by the entry-point group `moe.platforms`.

Features:
    cpu, cuda, rocm: the runtime.
    sm90, gfx942, ...: the architecture, equal to the row's `arch`.
    triton: Triton's kernels run, compiled or interpreted.
    fp8_mma, int8_mma, fp4_mma, mx_mma: matrix units for fp8, int8, fp4 and block-scaled formats.
    fp8_e4m3, fp8_e4m3fnuz: how products read fp8 codes; an e4m3fnuz value is half as large.
    peer_memory: kernels of a rank write into memory of the other ranks of its host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from moe.registry import Registry
from moe.spec import MemberSpec

if TYPE_CHECKING:
    from moe.spec import Platform


@dataclass(frozen=True, kw_only=True)
class PlatformSpec(MemberSpec):
    """Describe one kind of chip. `target` names a function () -> `Platform`.

    arch: the architecture that detection reports (`sm90`, `gfx942`, `cpu`).
    device_bytes: memory of one device, for plans that are made on another machine; that of the
        smallest product for servers.
    detector: "module:function", a `moe.platforms.base.Detector`, shared by the rows of a vendor;
        None for a machine without devices.
    products: words in product names, for detectors that can read only a name.
    """

    arch: str
    device_bytes: int = 0
    detector: str | None = None
    products: tuple[str, ...] = ()


_GB = 10**9
_NVIDIA = "moe.platforms.detect:nvidia_devices"
_AMD = "moe.platforms.detect:amd_devices"

PLATFORMS: Registry[PlatformSpec] = Registry(
    "platforms",
    (
        PlatformSpec(name="cpu", target="moe.platforms.cpu:platform", arch="cpu"),
        PlatformSpec(
            name="cuda_sm80",
            target="moe.platforms.cuda_sm80:platform",
            arch="sm80",
            device_bytes=40 * _GB,  # A100; another A100 has 80
            detector=_NVIDIA,
            products=("A100", "A100-PCIE-40GB", "A100-SXM4-40GB", "A100-SXM4-80GB", "A800"),
        ),
        PlatformSpec(
            name="cuda_sm90",
            target="moe.platforms.cuda_sm90:platform",
            arch="sm90",
            device_bytes=80 * _GB,  # H100; an H200 has 141
            detector=_NVIDIA,
            products=("H100", "H200", "H800", "H20"),
        ),
        PlatformSpec(
            name="cuda_sm100",
            target="moe.platforms.cuda_sm100:platform",
            arch="sm100",
            device_bytes=180 * _GB,  # B200
            detector=_NVIDIA,
            products=("B200",),
        ),
        PlatformSpec(
            name="cuda_sm120",
            target="moe.platforms.cuda_sm120:platform",
            arch="sm120",
            device_bytes=32 * _GB,  # RTX 5090; an RTX PRO 6000 has 96
            detector=_NVIDIA,
            products=("5090", "Blackwell"),
        ),
        PlatformSpec(
            name="rocm_gfx942",
            target="moe.platforms.rocm_gfx942:platform",
            arch="gfx942",
            device_bytes=192 * _GB,  # MI300X; an MI325X has 256
            detector=_AMD,
        ),
        PlatformSpec(
            name="rocm_gfx950",
            target="moe.platforms.rocm_gfx950:platform",
            arch="gfx950",
            device_bytes=288 * _GB,  # MI350X and MI355X
            detector=_AMD,
        ),
    ),
)


def platform(name: str) -> Platform:
    """Return the platform called `name`. Raises UnknownMemberError for a name without a row."""
    return cast("Platform", PLATFORMS.load(name)())
