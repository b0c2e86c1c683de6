"""Compute GELU(gate) * up, by the error function, or GELU alone."""
