"""How the kernels read scales, asked from the format: constants at compile time."""

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


def x_kind_of(fmt: Format) -> str:
    """none | tensor | token | group: what shares a scale of an activation format.

    Raises MoEError for blocks that the kernels do not know.
    """
    return _kind(fmt, _X_KINDS, "activation")


def w_kind_of(fmt: Format) -> str:
    """none | tensor | channel | block: what shares a scale of a weight format.

    Raises MoEError for blocks that the kernels do not know.
    """
    return _kind(fmt, _W_KINDS, "weight")


def _kind(fmt: Format, kinds: _Kinds, operand: str) -> str:
    if fmt.block not in kinds:
        known = ", ".join(str(block) for block in kinds)
        raise MoEError(f"no kernel reads {operand} scales for blocks of {fmt.block}, only {known}")
    return kinds[fmt.block]


def code_kind_of(fmt: Format) -> str:
    """What the quantizing kernels call the format's codes: "fp8" or "int8".

    Raises MoEError for a grid that they do not know.
    """
    kinds = {"e4m3": "fp8", "int8": "int8"}
    if fmt.grid not in kinds:
        raise MoEError(f"no kernel makes codes of grid {fmt.grid!r}, only {', '.join(kinds)}")
    return kinds[fmt.grid]
