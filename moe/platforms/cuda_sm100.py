"""NVIDIA Blackwell: B200, GB200. Takes block-scaled fp8 and fp4 in addition to Hopper's formats."""

from __future__ import annotations

from moe.spec import Platform, TritonTarget

FEATURES = frozenset(
    {
        "cuda",
        "sm100",
        "triton",
        "fp8_mma",
        "fp8_e4m3",
        "int8_mma",
        "mx_mma",
        "fp4_mma",
        "peer_memory",
    }
)


def platform() -> Platform:
    """Return the platform with these features."""
    return Platform(
        name="cuda_sm100",
        device="cuda",
        features=FEATURES,
        shared_bytes=227 * 1024,
        shared_source="CUDA C++ Programming Guide, compute capability 10.0: 227 KB for a block",
        triton_target=TritonTarget(backend="cuda", arch=100, warp=32),
    )
