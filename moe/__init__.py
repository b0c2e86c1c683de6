"""A fused Mixture-of-Experts stack, usable alone: what the harness puts to the test.

Nothing here imports `harness`. Start reading at `spec` (words), then `layer` (the whole).
"""
