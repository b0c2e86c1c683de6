"""List the quantization methods: one row and one file per method, named as in case ids."""

from __future__ import annotations

from dataclasses import dataclass, field

from moe.formats import FORMATS
from moe.registry import Registry
from moe.spec import ANY, MemberSpec, Needs, Scheme


@dataclass(frozen=True, kw_only=True)
class QuantSpec(MemberSpec):
    """Declare a quantization method and the formats that it produces.

    A method supports any input format, so its `needs.formats` must be ANY or contain its own pair:
    raises ValueError otherwise.
    """

    scheme: Scheme
    pads: bool = False  # whether it pads weights to the sizes that an experts backend needs
    needs: Needs = field(default_factory=lambda: Needs(dtypes=ANY, formats=ANY))

    @property
    def block(self) -> int | None:
        """Return the longer side of the weight blocks; None if blocks are rows or matrices.

        A block must not straddle a rank's shard or the seam between gate and up.
        """
        sides = [side for side in FORMATS[self.scheme.weights].block or () if side]
        return max(sides, default=1) if max(sides, default=1) > 1 else None

    @property
    def group(self) -> int | None:
        """Return how many columns of a weight's row share a scale; None if blocks are others."""
        return FORMATS[self.scheme.weights].group

    @property
    def static(self) -> bool:
        """Return whether activation scales are calibrated beforehand and passed in."""
        return FORMATS[self.scheme.activations].static

    def __post_init__(self) -> None:
        super().__post_init__()
        pair = (self.scheme.weights, self.scheme.activations)
        if pair not in self.needs.formats:
            pair_text = f"{pair[0]} weights with {pair[1]} activations"
            rule = "which its needs do not support; set formats=ANY in them"
            raise ValueError(f"{self.name} produces {pair_text}, {rule}")


def _one_byte(weights: str, activations: str, target: str, suffix: str = "") -> QuantSpec:
    """Return the row of a method of one-byte codes, named as its weight format and a suffix."""
    return QuantSpec(
        name=weights + suffix,
        target=f"moe.quant.{target}",
        scheme=Scheme(weights=weights, activations=activations, weight_bytes=1),
        # Shards end at the edges of 128x128 blocks anyway. The name tells them: no format can be
        # looked up while this table is made, as a package may have both in one module.
        pads=not weights.endswith("_block"),
    )


def _weight_only(name: str, row_class: str) -> QuantSpec:
    """Return the row of a method of integer weights, named as their format."""
    return QuantSpec(
        name=name,
        target=f"moe.quant.weight_only:{row_class}",
        scheme=Scheme(weights=name, activations="model", weight_bytes=1),
    )


def _four_bit(name: str, pair: tuple[str, str], target: str) -> QuantSpec:
    """Return the row of a method with another name than its pair (weights, activations)."""
    return QuantSpec(
        name=name,
        target=f"moe.quant.{target}",
        scheme=Scheme(weights=pair[0], activations=pair[1], weight_bytes=1),
    )


# bits, and whether there are zero points
_INTEGERS = ((4, False), (4, True), (8, False), (8, True))
WEIGHT_ONLY = tuple(
    _weight_only(
        f"int{bits}_{'zp_' if zero_point else ''}g{group}",
        f"Int{bits}{'Zp' if zero_point else ''}G{group}",
    )
    for bits, zero_point in _INTEGERS
    for group in (32, 64, 128)
)

QUANT: Registry[QuantSpec] = Registry(
    "quant",
    (
        QuantSpec(
            name="none",
            target="moe.quant.none:NoQuant",
            scheme=Scheme(weights="model", activations="model"),
            pads=True,
        ),
        # Named by the weights' granularity, then by the activations' where it is not the usual one:
        # `static` and `dynamic` are one scale for all tokens, `token` is one for each.
        _one_byte("fp8_tensor", "fp8_static", "fp8_tensor:Fp8TensorStatic"),
        _one_byte("fp8_tensor", "fp8_dynamic", "fp8_tensor:Fp8TensorDynamic", "_dynamic"),
        _one_byte("fp8_tensor", "fp8_token", "fp8_tensor:Fp8TensorToken", "_token"),
        _one_byte("fp8_channel", "fp8_token", "fp8_channel:Fp8Channel"),
        _one_byte("fp8_channel", "fp8_static", "fp8_channel:Fp8ChannelStatic", "_static"),
        _one_byte("fp8_channel", "fp8_dynamic", "fp8_channel:Fp8ChannelDynamic", "_dynamic"),
        _one_byte("fp8_block", "fp8_group", "fp8_block:Fp8Block"),
        _one_byte("fp8_fnuz_tensor", "fp8_fnuz_static", "fp8_fnuz:Fp8FnuzTensorStatic"),
        _one_byte(
            "fp8_fnuz_tensor", "fp8_fnuz_dynamic", "fp8_fnuz:Fp8FnuzTensorDynamic", "_dynamic"
        ),
        _one_byte("fp8_fnuz_channel", "fp8_fnuz_token", "fp8_fnuz:Fp8FnuzChannel"),
        _one_byte("fp8_fnuz_block", "fp8_fnuz_group", "fp8_fnuz:Fp8FnuzBlock"),
        _one_byte("int8_channel", "int8_token", "int8_channel:Int8Channel"),
        _one_byte("int8_block", "int8_group", "int8_block:Int8Block"),
        # Weights of four or eight bits; activations in the layer's dtype, or named last.
        *WEIGHT_ONLY,
        _four_bit("w4a8", ("int4_g128", "fp8_token"), "weight_only:W4A8"),
        _four_bit("mxfp8", ("mxfp8", "mxfp8"), "microscaling:Mxfp8"),
        _four_bit("mxfp4", ("mxfp4", "model"), "microscaling:Mxfp4WeightOnly"),
        _four_bit("mxfp4_mxfp8", ("mxfp4", "mxfp8"), "microscaling:Mxfp4Mxfp8"),
        _four_bit("mxfp4_mxfp4", ("mxfp4", "mxfp4"), "microscaling:Mxfp4"),
        _four_bit("nvfp4", ("nvfp4", "nvfp4_static"), "nvfp4:Nvfp4"),
        _four_bit("nvfp4_dynamic", ("nvfp4", "nvfp4_dynamic"), "nvfp4:Nvfp4Dynamic"),
    ),
    aliases={"modelopt_fp8": "fp8_tensor", "modelopt_fp4": "nvfp4"},
)
