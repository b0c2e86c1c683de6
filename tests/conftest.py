"""Without a GPU, Triton kernels run in its interpreter; that must be said before triton loads.

Imports neither torch nor triton: tests of the harness stay light. On a machine with a GPU the
kernels are compiled, unless TRITON_INTERPRET says otherwise.
"""

import os
from pathlib import Path

_GPU_FILES = ("/proc/driver/nvidia/version", "/dev/kfd")

if not any(Path(name).exists() for name in _GPU_FILES):
    os.environ.setdefault("TRITON_INTERPRET", "1")
