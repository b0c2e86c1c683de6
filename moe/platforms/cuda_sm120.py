"""NVIDIA Blackwell of workstations: RTX PRO 6000, RTX 5090. B200's formats, less shared memory."""

from __future__ import annotations

from moe.spec import Platform, TritonTarget

FEATURES = frozenset(
    {"cuda", "sm120", "triton", "fp8_mma", "fp8_e4m3", "int8_mma", "mx_mma", "fp4_mma"}
)


def platform() -> Platform:
    """Return the platform with these features."""
    return Platform(
        name="cuda_sm120",
        device="cuda",
        features=FEATURES,
        shared_bytes=99 * 1024,
        shared_source="CUDA C++ Programming Guide, compute capability 12.0: 99 KB for a block",
        triton_target=TritonTarget(backend="cuda", arch=120, warp=32),
    )
