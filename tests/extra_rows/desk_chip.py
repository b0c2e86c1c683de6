"""A CPU as a platform of its own; this machine is one where DESK_CHIP is set. No torch."""

from moe.platforms import PlatformSpec
from moe.platforms.base import Device
from moe.spec import Platform

DESK_CHIP = PlatformSpec(
    name="desk_chip", target="desk_chip:platform", arch="desk1", detector="desk_chip:detected"
)


def platform():
    return Platform(name="desk_chip", device="cpu", features=frozenset({"cpu", "desk1"}))


def detected(environ):
    if "DESK_CHIP" not in environ:
        return ()
    return (Device(name="Desk One", arch="desk1", memory_bytes=0),)
