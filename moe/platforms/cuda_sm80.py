"""NVIDIA Ampere: A100, A800. Its matrix units take bf16, fp16 and int8, but no fp8."""

from __future__ import annotations

from moe.spec import Platform, TritonTarget

FEATURES = frozenset({"cuda", "sm80", "triton", "int8_mma"})


def platform() -> Platform:
    """Return the platform with these features."""
    return Platform(
        name="cuda_sm80",
        device="cuda",
        features=FEATURES,
        shared_bytes=163 * 1024,
        shared_source="CUDA C++ Programming Guide, compute capability 8.0: 163 KB for a block",
        triton_target=TritonTarget(backend="cuda", arch=80, warp=32),
    )
