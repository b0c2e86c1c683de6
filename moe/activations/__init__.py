"""List the activation functions of an expert's gate: one row and one folder per function.

In a folder, `spec.py` has the row and is torch-free; `member.py` is the function of the stack under
test; `truth.py` is its independent twin, which only the reference imports.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.activations.gelu_tanh.spec import GELU_TANH
from moe.activations.silu.spec import SILU
from moe.registry import Registry

if TYPE_CHECKING:
    from moe.activations.base import ActivationSpec

ACTIVATIONS: Registry[ActivationSpec] = Registry("activations", (SILU, GELU_TANH))
