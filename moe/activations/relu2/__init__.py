"""Compute ReLU(gate) squared, times up, or squared ReLU alone."""
