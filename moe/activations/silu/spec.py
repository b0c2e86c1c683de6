"""Define the row of SiLU. Torch-free."""

from moe.activations.base import ActivationSpec

SILU = ActivationSpec(
    name="silu",
    target="moe.activations.silu.member:SiluMul",
    truth="moe.activations.silu.truth:silu_mul",
    identity_from=32.0,
)
