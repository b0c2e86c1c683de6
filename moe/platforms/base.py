"""Define what detection returns: devices. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Device:
    """Describe one device: a GPU, or a CPU that has a platform row of its own."""

    name: str  # the vendor's product name
    arch: str  # such as sm90 or gfx942
    memory_bytes: int  # 0 if it cannot be read
    uuid: str = ""  # "GPU-…"


class Detector(Protocol):
    """Detect the devices of one vendor; named by `PlatformSpec.detector`."""

    def __call__(self, environ: Mapping[str, str]) -> tuple[Device, ...]:
        """Return the devices that a process with this environment can use; () if there are none.

        Each device's `arch` selects its row. Must not import torch.
        """
