"""NVIDIA Blackwell: B200, GB200. Block-scaled fp8 and fp4 beside Hopper's formats."""

from __future__ import annotations

from moe.spec import Platform

FEATURES = frozenset({"cuda", "sm100", "triton", "fp8_mma", "int8_mma", "mx_mma", "fp4_mma"})


def platform() -> Platform:
    return Platform(name="cuda_sm100", device="cuda", features=FEATURES)
