"""Compute GELU(gate) * up with the tanh approximation of GELU, also called GeGLU."""
