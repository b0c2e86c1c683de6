"""The activation functions of an expert's gate: the table. One row and one folder a function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.activations.gelu_tanh.spec import GELU_TANH
from moe.activations.silu.spec import SILU
from moe.registry import Registry

if TYPE_CHECKING:
    from moe.activations.base import ActivationSpec

ACTIVATIONS: Registry[ActivationSpec] = Registry("activations", (SILU, GELU_TANH))
