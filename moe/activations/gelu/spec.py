"""Define the rows of GELU by the error function, gated and not. Torch-free."""

from dataclasses import replace

from moe.activations.base import ActivationSpec

GELU = ActivationSpec(
    name="gelu",
    target="moe.activations.gelu.member:GeluMul",
    truth="moe.activations.gelu.truth:gelu",
    identity_from=32.0,
    function="gelu",
)
GELU_NO_MUL = replace(GELU, name="gelu_no_mul", gated=False)
