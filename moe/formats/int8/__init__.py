"""Signed bytes, symmetric: -127 to 127."""
