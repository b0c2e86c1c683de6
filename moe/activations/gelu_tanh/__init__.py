"""GELU(gate) * up with GELU in its tanh form, also called GeGLU."""
