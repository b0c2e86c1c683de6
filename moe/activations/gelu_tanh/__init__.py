"""Compute GELU(gate) * up, in the tanh approximation of GELU, also called GeGLU; or GELU alone."""
