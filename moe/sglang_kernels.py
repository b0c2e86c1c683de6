"""Take SGLang's Triton kernels of experts, and what picks their tiles, without the rest of SGLang.

Their module imports its server. The row that calls them has this module imported in a process of
its own before a plan uses it. SGLang quantizes inside the call; here it gets codes with their
scales, and what quantizes passes them on. Where no GPU is, operands are not exchanged (`swap_ab`),
as on a Hopper with fp8 and small tiles: Triton 3.9 does not take that part of the kernel, see
docs/found.md. Files of tuned tiles are not looked for: see `moe.tuned_tiles`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from moe.kernels.align import align_tokens, align_tokens_torch
from moe.kernels.launch import runs_kernels
from moe.package_parts import definitions


def _is_hopper() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9


_IS_HIP = torch.version.hip is not None
_PARTS = definitions(
    "sglang.kernels.ops.moe.fused_moe_triton_kernels",
    *("should_enable_swap_ab", "write_zeros_to_output", "fused_moe_kernel"),
    *("invoke_fused_moe_kernel", "_moe_sum_reduce_kernel", "moe_sum_reduce_triton"),
    decorators=("triton.jit",),
    given={
        "torch": torch,
        "triton": triton,
        "tl": tl,
        "_is_cuda": not _IS_HIP,
        "is_sm90_supported": _is_hopper,
        "is_batch_invariant_mode_enabled": lambda: False,
        "is_arch_support_pdl": lambda: False,  # launches that overlap change no values
        "padding_size": 0,
        # Quantizers, in the place of those of SGLang: what they are given is quantized.
        "scaled_fp8_quant": lambda codes, scale, **_: (codes, scale),
        "per_token_quant_int8": lambda pair: pair,
    },
)
_CONFIG = definitions(
    "sglang.srt.layers.moe.moe_runner.triton_utils.fused_moe_triton_config",
    "get_default_config",
    given={
        "_is_hip": _IS_HIP,
        "_use_low_smem_fp8_default": lambda: False,
        "get_exec": lambda: SimpleNamespace(
            deterministic=SimpleNamespace(enable_deterministic_inference=False)
        ),
    },
)
product: Any = _PARTS["invoke_fused_moe_kernel"]
sum_of_slots: Any = _PARTS["moe_sum_reduce_triton"]
default_config: Any = _CONFIG["get_default_config"]


def assignment(ids: Tensor, block: int, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ids of sorted slots, the expert of each block, and the number of sorted slots.

    ids: [T, k] int32 local ids, -1 for other ranks' experts. As in SGLang, whose own is compiled
    for CUDA, these come first, in blocks of expert -1, whose rows the kernel sets to zero.
    """
    align = align_tokens if runs_kernels(ids.device) else align_tokens_torch
    aligned = align(ids + 1, experts + 1, block)
    return aligned.row_ids, aligned.block_expert - 1, aligned.num_rows.view(1)
