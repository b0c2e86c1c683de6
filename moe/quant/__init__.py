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
    needs: Needs = field(default_factory=lambda: Needs(dtypes=ANY, formats=ANY))

    @property
    def block(self) -> int | None:
        """Return the longer side of the weight blocks; None if blocks are rows or matrices.

        A block must not straddle a rank's shard or the seam between gate and up.
        """
        sides = [side for side in FORMATS[self.scheme.weights].block or () if side]
        return max(sides, default=1) if max(sides, default=1) > 1 else None

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


QUANT: Registry[QuantSpec] = Registry(
    "quant",
    (
        QuantSpec(
            name="none",
            target="moe.quant.none:NoQuant",
            scheme=Scheme(weights="model", activations="model"),
        ),
        QuantSpec(
            name="fp8_tensor",
            target="moe.quant.fp8_tensor:Fp8TensorStatic",
            scheme=Scheme(weights="fp8_tensor", activations="fp8_static", weight_bytes=1),
        ),
        QuantSpec(
            name="fp8_tensor_dynamic",
            target="moe.quant.fp8_tensor:Fp8TensorDynamic",
            scheme=Scheme(weights="fp8_tensor", activations="fp8_dynamic", weight_bytes=1),
        ),
        QuantSpec(
            name="fp8_block",
            target="moe.quant.fp8_block:Fp8Block",
            scheme=Scheme(weights="fp8_block", activations="fp8_group", weight_bytes=1),
        ),
        QuantSpec(
            name="int8_channel",
            target="moe.quant.int8_channel:Int8Channel",
            scheme=Scheme(weights="int8_channel", activations="int8_token", weight_bytes=1),
        ),
    ),
)
