"""A fused Mixture-of-Experts stack that the harness tests; it can be used without the harness.

Nothing in this package imports `harness`. Start with `spec` (the vocabulary, torch-free), `types`
(tensor bundles and the legend of shapes) and `layer` (how the members are composed).
"""
