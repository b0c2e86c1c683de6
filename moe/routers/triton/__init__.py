"""Route by this project's Triton kernel, `moe.kernels.top_k`: a row for each kind of scores."""
