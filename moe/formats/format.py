"""Define the row of a number format, which all families read. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moe.spec import MemberSpec, resolve

if TYPE_CHECKING:
    from moe.formats.codec import Codec


@dataclass(frozen=True, kw_only=True)
class Format(MemberSpec):
    """Declare how numbers are stored: the grid of codes, and the block that shares a scale.

    The scale is `amax * (1 / top)` in float32, and a code is `value / scale`, rounded to the grid.

    target: the codec's class. truth: "package.module:Class" of its twin for the reference, with a
    method `step_of(x)`; None if there are no codes. needs.features: what a platform must have to
    multiply codes without dequantizing them.
    Raises ValueError for a property that codecs and reference do not support yet.
    """

    grid: str  # `model`: the layer's dtype, unscaled; otherwise a name that `target` implements
    truth: str | None = None
    top: float = 0.0  # the largest code
    # (rows, columns) of the block of values that shares a scale; None in place of a side: all of
    # the matrix along it; None in place of both: no scale. Rows are the output channels of weights,
    # or tokens.
    block: tuple[int | None, int | None] | None = None
    scale_dtype: str = "f32"
    global_scale: bool = False  # whether a second scale multiplies those of all blocks
    zero_point: bool = False
    packing: int = 1  # codes per element of the tensor
    static: bool = False  # whether the scale is calibrated beforehand; larger values saturate
    # Whether the inputs of exact mode have exact codes: if the largest value is `top` times a power
    # of two, the scale is this power of two, and 2**-5 to 2**5 times it must be exact. (int8 with
    # one scale for gate and up has no code for 2**-5.)
    exact_scale: bool = False

    def __post_init__(self) -> None:
        for field, known in _KNOWN.items():
            value = getattr(self, field)
            if value != known:
                rule = f"codecs and reference support only {known!r}"
                raise ValueError(f"format {self.name!r} has {field} {value!r}; {rule}")
        if (self.block is None) != (self.grid == "model"):
            rule = "codes need a block, such as (1, None) for a scale per row; `model` has none"
            raise ValueError(
                f"format {self.name!r} has grid {self.grid!r} and block {self.block}; {rule}"
            )

    def __hash__(self) -> int:  # keys of caches contain formats, and `numerics_of` is a dict
        return hash((self.name, self.target, self.truth))

    @property
    def has_one_scale(self) -> bool:
        """Return whether a weight matrix, or all tokens, share one scale."""
        return self.block == (None, None)

    @property
    def has_row_scales(self) -> bool:
        """Return whether scales belong to rows, and must be sent with them."""
        return self.block is not None and self.block[0] is not None

    @property
    def is_integer(self) -> bool:
        """Return whether codes are integers, so that nothing below a scale has a code but 0."""
        return self.grid.startswith("int")

    def splits(self, rows: int) -> bool:
        """Return whether no scale is shared by rows before and after row `rows`."""
        down = None if self.block is None else self.block[0]
        return down is not None and rows % down == 0

    def blocks(self, rows: int, columns: int) -> tuple[int, int]:
        """Return the number of scales along the rows and along the columns of a matrix."""
        assert self.block is not None, f"{self.name} has no scales"
        down, across = self.block
        row_blocks = 1 if down is None else -(-rows // down)
        column_blocks = 1 if across is None else -(-columns // across)
        return row_blocks, column_blocks

    @property
    def codec(self) -> Codec:
        """Return a new codec of this format."""
        codec: Codec = resolve(self.target)()
        return codec


_KNOWN = {"scale_dtype": "f32", "global_scale": False, "zero_point": False, "packing": 1}
