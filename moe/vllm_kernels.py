"""Take vLLM's Triton kernel of experts, and what picks its tiles, without the rest of vLLM.

Its module imports vLLM's engine and compiled libraries. The row that calls it has this module
imported in a process of its own before a plan uses it. Where no GPU is, vLLM is told that the card
is a Hopper, so that the interpreter runs what a Hopper would: with fp8, operands of small tiles are
exchanged (`SWAP_AB`). Files of tuned tiles are not looked for: see `moe.tuned_tiles`.
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

_MOE = "vllm.model_executor.layers.fused_moe"
_HOPPER = (9, 0)


def _capability() -> int:
    major, minor = torch.cuda.get_device_capability() if torch.cuda.is_available() else _HOPPER
    return 10 * major + minor


_PLATFORM = SimpleNamespace(
    is_device_capability=lambda asked: _capability() == asked,
    is_rocm=lambda: torch.version.hip is not None,
    is_cuda=lambda: torch.version.hip is None,
)


def _align(ids: Tensor, block: int, experts: int, *_: Any, **__: Any) -> tuple[Tensor, ...]:
    """Return what vLLM's does: ids of sorted slots, the expert of each block, and their number."""
    align = align_tokens if runs_kernels(ids.device) else align_tokens_torch
    aligned = align(ids, experts, block)
    return aligned.row_ids, aligned.block_expert, aligned.num_rows.view(1)


_SWAP = definitions(f"{_MOE}.utils", "enable_swap_ab", given={"current_platform": _PLATFORM})
_PARTS = definitions(
    f"{_MOE}.fused_moe",
    *("write_zeros_to_output", "fused_moe_kernel", "invoke_fused_moe_triton_kernel"),
    *("get_default_config", "_prepare_expert_assignment"),
    decorators=("triton.jit",),
    given={
        "torch": torch,
        "triton": triton,
        "tl": tl,
        "current_platform": _PLATFORM,
        "enable_swap_ab": _SWAP["enable_swap_ab"],
        # Tensor descriptors are off by default, and so is what warns of them.
        "resolve_moe_use_td": lambda: False,
        "warn_if_moe_use_td_ineffective": lambda *_, **__: None,
        "envs": SimpleNamespace(VLLM_BATCH_INVARIANT=False),
        "moe_align_block_size": _align,  # vLLM's own is compiled for CUDA
    },
)
product: Any = _PARTS["invoke_fused_moe_triton_kernel"]
default_config: Any = _PARTS["get_default_config"]


def assignment(ids: Tensor, config: dict[str, int], experts: int) -> tuple[Tensor | None, ...]:
    """Return ids of sorted slots, the expert of each block, and the number of sorted slots.

    ids: [T, k] int32 local ids; -1 for other ranks' experts, which vLLM says by an expert map. The
    first is None where vLLM does not sort: with few slots for many experts, and no map.
    """
    expert_map = ids if bool((ids < 0).any()) else None  # vLLM asks whether there is one
    split: Any = _PARTS["_prepare_expert_assignment"]
    result: tuple[Tensor | None, ...] = split(ids, config, *ids.shape, experts, expert_map)
    return result
