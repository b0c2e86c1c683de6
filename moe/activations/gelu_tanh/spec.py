"""Define the rows of GELU in its tanh approximation, gated and not. Torch-free."""

from dataclasses import replace

from moe.activations.base import ActivationSpec

GELU_TANH = ActivationSpec(
    name="gelu_tanh",
    target="moe.activations.gelu_tanh.member:GeluTanhMul",
    truth="moe.activations.gelu_tanh.truth:gelu_tanh",
    identity_from=32.0,
    function="gelu_tanh",
)
GELU_TANH_NO_MUL = replace(GELU_TANH, name="gelu_tanh_no_mul", gated=False)
