"""Compute SwiGLU with a factor in its sigmoid, an offset of up and a limit."""
