"""AMD CDNA4: MI350X, MI355X. Takes OCP fp8 (not fnuz), and block-scaled fp8, fp6 and fp4."""

from __future__ import annotations

from moe.spec import Platform, TritonTarget

FEATURES = frozenset(
    {"rocm", "gfx950", "triton", "fp8_mma", "fp8_e4m3", "int8_mma", "mx_mma", "fp4_mma"}
)


def platform() -> Platform:
    """Return the platform with these features."""
    return Platform(
        name="rocm_gfx950",
        device="cuda",
        features=FEATURES,
        shared_bytes=160 * 1024,
        shared_source="AMD CDNA 4 white paper: 160 KB of LDS in a compute unit",
        triton_target=TritonTarget(backend="hip", arch="gfx950", warp=64),
    )
