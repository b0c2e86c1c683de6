"""Find the quantization method whose formats have the properties that a checkpoint states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moe.formats import FORMATS
from moe.quant import QUANT

if TYPE_CHECKING:
    from moe.formats.format import Format

_GRIDS = {
    ("float", 8): ("e4m3",),
    ("float", 4): ("e2m1",),
    ("int", 8): ("int8", "uint8"),
    ("int", 4): ("int4", "uint4"),
}


@dataclass(frozen=True, kw_only=True)
class Side:
    """State how weights, or activations, are stored.

    kind: `int` or `float`. block: (rows, columns) that share a scale, as in a row of moe.formats.
    scale: its dtype, a key of SCALE_DTYPES. static: whether a scale of activations is calibrated.
    """

    kind: str
    bits: int
    block: tuple[int | None, int | None]
    scale: str = "f32"
    zero_point: bool = False
    static: bool = False

    def is_stored_as(self, fmt: Format) -> bool:
        """Return whether a format is this one."""
        return (
            fmt.grid in _GRIDS.get((self.kind, self.bits), ())
            and fmt.block == self.block
            and fmt.scale_dtype == self.scale
            and fmt.zero_point == self.zero_point
            and fmt.static == self.static
        )


def method_of(weights: Side, activations: Side | None) -> str | None:
    """Return the first method of moe.quant with these formats, or None. None: not quantized."""
    for row in QUANT:
        act = FORMATS[row.scheme.activations]
        same = act.grid == "model" if activations is None else activations.is_stored_as(act)
        if same and weights.is_stored_as(FORMATS[row.scheme.weights]):
            return row.name
    return None
