"""List the routers: one row and one folder per router.

In a folder, `spec.py` has the row and is torch-free; `member.py` is the router of the stack under
test; `truth.py` is its independent twin, which only the reference imports.
"""

from __future__ import annotations

from moe.routers.function import RouterRegistry
from moe.routers.megablocks.spec import MEGABLOCKS
from moe.routers.sglang_gate.spec import SGLANG_ROUTERS
from moe.routers.sglang_torch.spec import SGLANG_TORCH_ROUTERS
from moe.routers.sigmoid.spec import SIGMOID
from moe.routers.softmax.spec import SOFTMAX
from moe.routers.softplus_sqrt.spec import SOFTPLUS_SQRT
from moe.routers.topk_softmax.spec import TOPK_SOFTMAX
from moe.routers.triton.spec import TRITON_ROUTERS
from moe.routers.triton_kernels.spec import TRITON_KERNELS
from moe.routers.vllm_softmax.spec import VLLM_SOFTMAX
from moe.routers.vllm_torch.spec import VLLM_TORCH_ROUTERS

ROUTERS = RouterRegistry(
    "routers",
    (
        *(SOFTMAX, SIGMOID, TOPK_SOFTMAX, SOFTPLUS_SQRT),
        *TRITON_ROUTERS,
        VLLM_SOFTMAX,
        TRITON_KERNELS,
        *SGLANG_ROUTERS,
        *SGLANG_TORCH_ROUTERS,
        *VLLM_TORCH_ROUTERS,
        MEGABLOCKS,
    ),
)
