"""What torch says of this machine, printed as JSON by a process of its own (see doctor).

The doctor compares it with what was found without torch. Given `family name` pairs it also
imports those members' classes, which is the only way to know that they can be.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from moe import families


def facts() -> dict[str, Any]:
    """Version, and each device's name, arch (`sm90`, `gfx942`) and bytes."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {"version": torch.__version__, "devices": [_device(i) for i in range(count)]}


def _device(index: int) -> dict[str, Any]:
    properties = torch.cuda.get_device_properties(index)
    arch = f"sm{properties.major}{properties.minor}"
    if torch.version.hip is not None:
        arch = properties.gcnArchName.split(":")[0]
    return {"name": properties.name, "arch": arch, "bytes": properties.total_memory}


def load_faults(members: list[str]) -> dict[str, str]:
    """`family/name` -> why its class cannot be imported; nothing for those that can."""
    faults = {}
    for member in members:
        family, _, name = member.partition("/")
        try:
            families.table(family).load(name)
        except Exception as error:  # whatever an import may raise
            faults[member] = f"{type(error).__name__}: {error}"
    return faults


if __name__ == "__main__":
    print(json.dumps({**facts(), "faults": load_faults(sys.argv[1:])}))
