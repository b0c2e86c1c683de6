"""NVIDIA Hopper: H100, H200, GH200. Its matrix units take bf16, fp16, int8 and OCP fp8."""

from __future__ import annotations

from moe.spec import Platform, TritonTarget

FEATURES = frozenset({"cuda", "sm90", "triton", "fp8_mma", "fp8_e4m3", "int8_mma", "peer_memory"})


def platform() -> Platform:
    """Return the platform with these features."""
    return Platform(
        name="cuda_sm90",
        device="cuda",
        features=FEATURES,
        shared_bytes=227 * 1024,
        shared_source="CUDA C++ Programming Guide, compute capability 9.0: 227 KB for a block",
        triton_target=TritonTarget(backend="cuda", arch=90, warp=32),
    )
