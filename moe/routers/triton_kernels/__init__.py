"""Route by `topk` of the package triton_kernels."""
