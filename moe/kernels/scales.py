"""Map formats to the compile-time constants by which kernels read scales and write codes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.errors import MoEError
from moe.spec import BLOCK

if TYPE_CHECKING:
    from moe.formats.format import Format

_Kinds = dict[tuple[int | None, int | None] | None, str]
_X_KINDS: _Kinds = {None: "none", (None, None): "tensor", (1, None): "token", (1, BLOCK): "group"}
_W_KINDS: _Kinds = {
    None: "none",
    (None, None): "tensor",
    (1, None): "channel",
    (BLOCK, BLOCK): "block",
}


# Grid of a format -> kind of its codes for `moe.kernels.quantize`.
KINDS = {"e4m3": "fp8", "e4m3fnuz": "fp8_fnuz", "int8": "int8"}


def x_kind_of(fmt: Format) -> str:
    """Return what shares a scale in an activation format: none, tensor, token or group.

    Raises MoEError for blocks that the kernels do not support.
    """
    return _kind(fmt, _X_KINDS, "activation")


def w_kind_of(fmt: Format) -> str:
    """Return what shares a scale in a weight format: none, tensor, channel or block.

    Raises MoEError for blocks that the kernels do not support.
    """
    return _kind(fmt, _W_KINDS, "weight")


def _kind(fmt: Format, kinds: _Kinds, operand: str) -> str:
    if fmt.block not in kinds:
        known = ", ".join(str(block) for block in kinds)
        raise MoEError(f"no kernel reads {operand} scales for blocks of {fmt.block}, only {known}")
    return kinds[fmt.block]


def code_kind_of(fmt: Format) -> str:
    """Return the kind of a format's codes for `moe.kernels.quantize`, a key of its MAX.

    Raises MoEError for a grid that the kernels do not support.
    """
    if fmt.grid not in KINDS:
        raise MoEError(f"no kernel makes codes of grid {fmt.grid!r}, only {', '.join(KINDS)}")
    return KINDS[fmt.grid]
