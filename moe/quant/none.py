"""No quantization: weights and activations stay in the model dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.formats.model.spec import MODEL
from moe.quant.base import QuantMethod
from moe.types import Activations, ExpertWeights

if TYPE_CHECKING:
    from torch import Tensor


class NoQuant(QuantMethod):
    """Return weights and activations unchanged."""

    def quantize_weights(self, w13: Tensor, w2: Tensor) -> ExpertWeights:
        return ExpertWeights(w13=w13, w2=w2)

    def quantize_input(self, x: Tensor, a1_scale: Tensor | None) -> Activations:
        del a1_scale
        return Activations(codes=x, format=MODEL)
