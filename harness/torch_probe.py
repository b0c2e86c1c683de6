"""Print as JSON what torch detects on this machine. Run by `doctor` in a separate process.

The doctor compares it with what it detects without torch. For each `family/name` argument this
module also imports the member's class, the only way to know that the import works.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from moe import families


def facts() -> dict[str, Any]:
    """Return the version, and the name, arch (`sm90`, `gfx942`) and bytes of each device."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {"version": torch.__version__, "devices": [_device(i) for i in range(count)]}


def _device(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    arch = f"sm{properties.major}{properties.minor}"
    if torch.version.hip is not None:
        arch = properties.gcnArchName.split(":")[0]
    return {"name": properties.name, "arch": arch, "bytes": properties.total_memory}


def load_faults(members: list[str]) -> dict[str, str]:
    """Return `family/name` -> import error, for members whose class cannot be imported."""
    faults = {}
    for member in members:
        family, _, name = member.partition("/")
        try:
            families.table(family).load(name)
        except Exception as error:  # an import may raise anything
            faults[member] = f"{type(error).__name__}: {error}"
    return faults


if __name__ == "__main__":
    print(json.dumps({**facts(), "faults": load_faults(sys.argv[1:])}))
