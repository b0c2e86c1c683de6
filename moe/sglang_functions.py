"""Take SGLang's torch functions without the rest of SGLang: its choice of experts, and its experts.

Their modules import its server. The rows that call them have this module imported in a process of
its own before a plan uses them. `SiluAndMul` is SGLang's class with its `forward_native`, which it
calls on a CPU without AMX.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from moe.package_parts import definitions

_GIVEN = {"torch": torch, "F": functional}


class _Native(torch.nn.Module):
    """Stand in for SGLang's choice between implementations: take the one in torch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.forward_native(x)  # type: ignore[operator]
        return result


_TOP_K = definitions(
    "sglang.srt.layers.moe.topk",
    "_RENORMALIZE_SUM_EPSILON",
    "fused_topk_torch_native",
    "fused_topk_softmax_torch_raw_logits",
    "biased_topk_impl",
    "biased_grouped_topk_impl",
    given=_GIVEN,
)
fused_topk: Any = _TOP_K["fused_topk_torch_native"]
raw_logits_topk: Any = _TOP_K["fused_topk_softmax_torch_raw_logits"]
biased_topk: Any = _TOP_K["biased_topk_impl"]
biased_grouped_topk: Any = _TOP_K["biased_grouped_topk_impl"]

_SILU = definitions(
    "sglang.srt.layers.activation",
    "SiluAndMul",
    given={**_GIVEN, "BaseFusedOp": _Native, "publish_role": lambda: None, "_use_aiter": False},
)
_EXPERTS = definitions(
    "sglang.srt.layers.moe.fused_moe_native",
    "fused_moe_forward_native",
    "moe_forward_native",
    given={**_GIVEN, **_SILU, "StandardCombineInput": dict},
)
moe_forward: Any = _EXPERTS["moe_forward_native"]
fused_moe_forward: Any = _EXPERTS["fused_moe_forward_native"]
