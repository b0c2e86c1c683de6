"""List the activation functions of an expert: one row per function, one folder per formula.

In a folder, `spec.py` has the rows and is torch-free; `member.py` is the function of the stack
under test; `truth.py` is its independent twin, which only the reference imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.activations.gelu.spec import GELU, GELU_NO_MUL
from moe.activations.gelu_tanh.spec import GELU_TANH, GELU_TANH_NO_MUL
from moe.activations.relu2.spec import RELU2, RELU2_NO_MUL
from moe.activations.silu.spec import SILU, SILU_NO_MUL
from moe.activations.swiglu.spec import SWIGLU_CLAMPED
from moe.registry import Registry

if TYPE_CHECKING:
    from moe.activations.base import ActivationSpec

ACTIVATIONS: Registry[ActivationSpec] = Registry(
    "activations",
    (
        *(SILU, GELU_TANH, GELU, RELU2, SWIGLU_CLAMPED),
        *(SILU_NO_MUL, GELU_TANH_NO_MUL, GELU_NO_MUL, RELU2_NO_MUL),
    ),
)
