"""Triton kernels of the experts, each with a slow `_torch` twin of the same signature.

They run compiled on CUDA and ROCm, and in Triton's interpreter on the CPU if the environment
variable TRITON_INTERPRET is 1 before triton is first imported. Only `rounding` converts float32 to
a narrower type, so that all three give the same bits.
"""
