"""Name what several rows of experts backends state: numerics and activations. Torch-free."""

from __future__ import annotations

from dataclasses import replace

from moe.spec import Numerics

# Each product, and f(gate) * up, is rounded to the layer's dtype. Tensor cores sum bf16 and fp16
# products in float32, but drop low bits when they align the terms.
ROUNDED = Numerics.stated(gemm1="model", activation="model", expert="model", accumulation=2.0**-22)
# Hopper's tensor cores sum fp8 products in a short accumulator: 32 at a time, truncated 13 bits
# below the largest exponent among them. (An emulation of this has the same bits as the hardware in
# 80 % of measured sums, and the same largest error.) Over 4096 terms the relative error is 2**-9.5.
# The Triton kernels add it to a float32 accumulator every 128 elements.
FP8_SHORT, FP8_ALIGNED = 2.0**-15.5, (32, 13)
FP8_PROMOTED = replace(ROUNDED, accumulation=FP8_SHORT, promoted=128, aligned=FP8_ALIGNED)
# Frameworks compute each step in the layer's dtype: f(gate) is rounded before the product with up.
EVERY_STEP = replace(ROUNDED, activated_gate="model")
TRITON_ACTIVATIONS = frozenset(  # those whose row names a function of the kernels
    {
        *("silu", "gelu_tanh", "gelu", "relu2", "swiglu_clamped"),
        *("silu_no_mul", "gelu_tanh_no_mul", "gelu_no_mul", "relu2_no_mul"),
    }
)
