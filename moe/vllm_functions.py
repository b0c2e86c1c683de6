"""Take vLLM's choice of experts in torch without the rest of vLLM, whose modules import its engine.

The rows that call them have this module imported in a process of its own before a plan uses them.
`grouped_topk` is told that the platform is no GPU, so that it computes in torch; without
torch.compile, which vLLM puts around it.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from moe.package_parts import definitions

_ROUTER = "vllm.model_executor.layers.fused_moe.router"
_FLAGS = SimpleNamespace(VLLM_USE_FUSED_MOE_GROUPED_TOPK=False, VLLM_BATCH_INVARIANT=False)

grouped_topk: Any = definitions(
    f"{_ROUTER}.grouped_topk_router", "grouped_topk", given={"torch": torch, "envs": _FLAGS}
)["grouped_topk"]
_CPU = definitions(
    f"{_ROUTER}.cpu_router", "_grouped_topk", "_softmax_topk", given={"torch": torch}
)
cpu_grouped_topk: Any = _CPU["_grouped_topk"]
cpu_softmax_topk: Any = _CPU["_softmax_topk"]
