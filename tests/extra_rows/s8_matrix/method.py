"""Weights as codes; activations as they are."""

from moe.formats import FORMATS
from moe.quant.base import QuantMethod, quantize_pair
from moe.types import Activations


class S8Weights(QuantMethod):
    def quantize_weights(self, w13, w2):
        return quantize_pair(w13, w2, FORMATS["s8_matrix"])

    def quantize_input(self, x, a1_scale):
        return Activations(codes=x)
