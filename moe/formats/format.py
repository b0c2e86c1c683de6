"""Define the row of a number format, which all families read. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from moe.spec import MemberSpec, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

    from moe.formats.codec import Codec


# For rows whose scales belong to groups of a row's columns, and are not plain products of amax.
GROUP_QUANTIZER = "moe.kernels.group_weights:quantize_weights"


@dataclass(frozen=True, kw_only=True)
class Format(MemberSpec):
    """Declare how numbers are stored: the grid of codes, and the block that shares a scale.

    The scale of a block is `amax * (1 / scale_top)` in float32, put on the grid of `scale_dtype`,
    and a code is `value / scale`, rounded to the grid. With a zero point the scale is
    `(max - min) / (top - bottom)` and `value = (code - zero point) * scale`, where the range
    contains 0. With a global scale G the block's scale is that of `amax * G` and
    `value = code * scale / G`, where `G = 448 * top / amax of the whole tensor`.

    target: the codec's class. truth: "package.module:Class" of its twin for the reference, with a
    method `step_of(x)`, and `decode(codes)` if codes are packed; None if there are no codes.
    needs.features: what a platform must have to multiply codes without dequantizing them.
    Raises ValueError for properties that contradict each other or that no codec supports.
    """

    grid: str  # `model`: the layer's dtype, unscaled; otherwise a name that `target` implements
    truth: str | None = None
    # "module:function" (w [e, O, I], format) -> QuantTensor, a kernel for weights, next to its twin
    # `function_torch`; None: `moe.kernels.quantize_weights`, bytes with float32 scales by block.
    quantizer: str | None = None
    top: float = 0.0  # the largest code
    bottom: float | None = None  # the smallest code; None: -top
    # (rows, columns) of the block of values that shares a scale; None in place of a side: all of
    # the matrix along it; None in place of both: no scale. Rows are the output channels of weights,
    # or tokens.
    block: tuple[int | None, int | None] | None = None
    scale_dtype: str = "f32"  # a key of SCALE_DTYPES
    # How a scale is put on the grid of e8m0, powers of two. `floor`: the power of two at or below
    # amax, divided by that of `top` (OCP MX 1.0, 6.3; values up to twice the power saturate).
    # `up`: the power of two at or above `amax / top`; nothing saturates.
    scale_rounding: str | None = None
    # What amax becomes, in codes, before they are rounded and clamped; None: top. Symmetric int4
    # has the range -8 to 7, whose middle is -0.5, and half of whose length is 7.5.
    scale_top: float | None = None
    scale_divides: bool = False  # the scale is `amax / scale_top`, not times the reciprocal
    global_scale: bool = False  # whether a second scale multiplies those of all blocks
    zero_point: bool = False  # of each block, an integer code; for weights only
    packing: int = 1  # codes per byte, the first one in the low bits
    static: bool = False  # whether the scale is calibrated beforehand; larger values saturate
    # Whether the inputs of exact mode have exact codes: if the largest value is `peak` times a
    # power of two, the scale is this power of two, and 2**-5 to 2**5 times it must be exact, or for
    # codes up to 16 those of 1, 2, 3, 4 and 6, and of their halves if it is a format of
    # activations. (int8 with one scale for gate and up has no code for 2**-5.)
    exact_scale: bool = False

    def __post_init__(self) -> None:
        contradiction = next((text for text in self._contradictions() if text), None)
        if contradiction is not None:
            raise ValueError(f"format {self.name!r} has {contradiction}")

    def _contradictions(self) -> Iterator[str | None]:
        """Yield the properties that contradict each other, with the rule, or None for each."""
        group = None if self.block is None or self.block[0] != 1 else self.block[1]
        if (self.block is None) != (self.grid == "model"):
            rule = "codes need a block, such as (1, None) for a scale per row; `model` has none"
            yield f"grid {self.grid!r} and block {self.block}; {rule}"
        for field, known in _KNOWN.items():
            if getattr(self, field) not in known:
                rule = f"codecs and reference support only {', '.join(map(repr, known))}"
                yield f"{field} {getattr(self, field)!r}; {rule}"
        needed = SCALE_DTYPES.get(self.scale_dtype)
        if needed is not None and self.block != (1, needed):
            yield f"{self.scale_dtype} scales and block {self.block}; they need (1, {needed})"
        if (self.scale_dtype == "e8m0") != (self.scale_rounding is not None):
            rule = "e8m0 scales, and no others, need one of: floor, up"
            yield f"{self.scale_dtype} scales and scale_rounding {self.scale_rounding!r}; {rule}"
        if self.global_scale != (self.scale_dtype == "e4m3"):
            rule = "e4m3 scales need a global scale, others have none"
            yield f"{self.scale_dtype} scales and global_scale {self.global_scale}; {rule}"
        if self.packing > 1 and (group is None or group % self.packing):
            rule = f"a group of a row must be whole bytes of {self.packing} codes"
            yield f"packing {self.packing} and block {self.block}; {rule}"
        if self.zero_point and (group is None or self.bottom != 0):
            yield "a zero point; it needs groups of a row, and codes from 0"

    def __hash__(self) -> int:  # keys of caches contain formats, and `numerics_of` is a dict
        return hash((self.name, self.target, self.truth))

    @property
    def lowest(self) -> float:
        """Return the smallest code."""
        return -self.top if self.bottom is None else self.bottom

    @property
    def peak(self) -> float:
        """Return the largest magnitude of values whose scale is 1; with zero points, the range."""
        return self.scale_top or self.top

    @property
    def has_one_scale(self) -> bool:
        """Return whether a weight matrix, or all tokens, share one scale, the only one."""
        return self.block == (None, None)

    @property
    def spans_rows(self) -> bool:
        """Return whether a scale, or a global scale, is taken over all rows of a call."""
        return (self.has_one_scale or self.global_scale) and not self.static

    @property
    def has_row_scales(self) -> bool:
        """Return whether scales belong to rows, and must be sent with them."""
        return self.block is not None and self.block[0] is not None

    @property
    def group(self) -> int | None:
        """Return how many columns of a row share a scale; None if it is not a group of one row."""
        return None if self.block is None or self.block[0] != 1 else self.block[1]

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


# dtype of scales -> columns of the group that shares one, where only one length exists. e8m0 is a
# byte with the exponent of a power of two, plus 127; 255 is NaN.
SCALE_DTYPES = {"f32": None, "e8m0": 32, "e4m3": 16}
_KNOWN = {"scale_dtype": tuple(SCALE_DTYPES), "packing": (1, 2)}
