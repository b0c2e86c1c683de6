"""Import SGLang's router kernel without the rest of SGLang.

`import sglang` needs packages that its kernels do not need, such as IPython and torchvision. The
rows of `moe.routers.sglang_gate.spec` have this module imported in a process of its own before a
plan uses them.
"""

from __future__ import annotations

import importlib

from moe.package_parts import enter

enter("sglang")
fused_gate = importlib.import_module("sglang.kernels.ops.moe.moe_fused_gate").moe_fused_gate
