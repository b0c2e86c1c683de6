"""What a number format is: the row that every other family asks. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moe.spec import Row, resolve

if TYPE_CHECKING:
    from moe.formats.codec import Codec


@dataclass(frozen=True, kw_only=True)
class Format(Row):
    """How numbers are stored: on which grid, and what shares one scale.

    The scale is `amax * (1 / top)` in float32, and a code is `value / scale` on the grid.

    target: the codec's class, which makes codes and reads them. truth: "package.module:Class" of
    its twin for the reference, with `step_of(x)`; None where there are no codes.
    Raises ValueError for what neither the codecs nor the reference can follow yet.
    """

    grid: str  # `model`: the layer's dtype, unscaled; else what `truth` and `target` know
    truth: str | None = None
    top: float = 0.0  # the largest code
    # (rows, columns) of the values that share one scale, None: the matrix's; None alone: no scale.
    # Rows are output channels of a weight matrix, or tokens.
    block: tuple[int | None, int | None] | None = None
    scale_dtype: str = "f32"
    global_scale: bool = False  # a second scale over all blocks
    zero_point: bool = False
    packing: int = 1  # codes in an element of the tensor that holds them
    static: bool = False  # the scale was calibrated before, and values beyond it saturate
    # Whether the inputs of exact mode lose nothing in it: a largest value of `top` times a power of
    # two makes this power of two the scale, and 2**-5 to 2**5 beside it have exact codes. (int8
    # with one scale for gate and up has none for 2**-5.)
    exact_scale: bool = False

    def __post_init__(self) -> None:
        for field, known in _KNOWN.items():
            value = getattr(self, field)
            if value != known:
                rule = f"codecs and reference know {known!r} alone"
                raise ValueError(f"format {self.name!r} has {field} {value!r}; {rule}")
        if (self.block is None) != (self.grid == "model"):
            rule = "codes need a block, such as (1, None) for one scale a row; `model` has none"
            raise ValueError(f"format {self.name!r} has grid {self.grid!r}, {self.block}; {rule}")

    def __hash__(self) -> int:  # a row's `numerics_of` is a dict; caches have formats in their keys
        return hash((self.name, self.target, self.truth))

    @property
    def has_one_scale(self) -> bool:
        """Whether one scale serves a matrix of weights, or all tokens."""
        return self.block == (None, None)

    @property
    def has_row_scales(self) -> bool:
        """Whether a scale belongs to some rows, so that it goes where they go."""
        return self.block is not None and self.block[0] is not None

    def blocks(self, rows: int, columns: int) -> tuple[int, int]:
        """How many scales a matrix of this size has along each side."""
        assert self.block is not None, f"{self.name} has no scales"
        down, across = self.block
        high = 1 if down is None else -(-rows // down)
        wide = 1 if across is None else -(-columns // across)
        return high, wide

    @property
    def codec(self) -> Codec:
        """An object of the class that makes codes of values, and values of codes."""
        codec: Codec = resolve(self.target)()
        return codec


_KNOWN = {"scale_dtype": "f32", "global_scale": False, "zero_point": False, "packing": 1}
