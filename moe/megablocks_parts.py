"""Import MegaBlocks' router without the rest of MegaBlocks.

`import megablocks` needs its kernels, which are compiled for CUDA where it is installed. The row of
`moe.routers.megablocks.spec` has this module imported in a process of its own before a plan uses
it.
"""

from __future__ import annotations

import importlib
import warnings

from moe.package_parts import enter

enter("megablocks")
enter("megablocks.layers")
with warnings.catch_warnings():
    warnings.filterwarnings(
        "ignore", "Grouped GEMM not available"
    )  # experts need it, and no router
    Arguments = importlib.import_module("megablocks.layers.arguments").Arguments
    LearnedRouter = importlib.import_module("megablocks.layers.router").LearnedRouter
