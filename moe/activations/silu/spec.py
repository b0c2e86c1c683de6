"""Define the rows of SiLU, gated and not. Torch-free."""

from dataclasses import replace

from moe.activations.base import ActivationSpec

SILU = ActivationSpec(
    name="silu",
    target="moe.activations.silu.member:SiluMul",
    truth="moe.activations.silu.truth:silu",
    identity_from=32.0,
    function="swish",
)
SILU_NO_MUL = replace(SILU, name="silu_no_mul", gated=False)
