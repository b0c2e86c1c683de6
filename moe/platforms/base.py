"""What detection gives for a platform: its devices. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class Device:
    """One device: a GPU, or a CPU that is a platform of its own."""

    name: str  # the vendor's product name
    arch: str  # sm90, gfx942
    memory_bytes: int  # 0 where it cannot be read
    uuid: str = ""  # "GPU-…"


class Detector(Protocol):
    """What `PlatformRow.detector` names."""

    def __call__(self, environ: Mapping[str, str]) -> tuple[Device, ...]:
        """Return the devices that a process with this environment may use; () without any.

        Their `arch` says which row each is. Imports no torch.
        """
