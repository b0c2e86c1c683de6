"""Compute SiLU(gate) * up, also called SwiGLU."""
