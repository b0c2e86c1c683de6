"""AMD CDNA3: MI300A, MI300X, MI325X. Its matrix units take fp8 as e4m3fnuz, not as OCP e4m3."""

from __future__ import annotations

from moe.spec import Platform, TritonTarget

FEATURES = frozenset({"rocm", "gfx942", "triton", "fp8_mma", "fp8_e4m3fnuz", "int8_mma"})


def platform() -> Platform:
    """Return the platform with these features."""
    return Platform(
        name="rocm_gfx942",
        device="cuda",
        features=FEATURES,
        shared_bytes=64 * 1024,
        shared_source="AMD CDNA 3 white paper: 64 KB of LDS in a compute unit",
        triton_target=TritonTarget(backend="hip", arch="gfx942", warp=64),
    )
