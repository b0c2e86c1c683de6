"""Triton kernels of the experts, each with a slow `_torch` twin of the same signature beside it.

They run compiled on CUDA and ROCm, and in Triton's interpreter on the CPU when the environment
variable TRITON_INTERPRET is 1 before triton is first imported. `rounding` is the only place
that turns float32 into a narrower type, so that all three give the same bits.
"""
