"""Compute SiLU(gate) * up, also called SwiGLU, or SiLU alone."""
