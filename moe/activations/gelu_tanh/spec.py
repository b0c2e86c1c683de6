"""Define the row of GELU in its tanh approximation. Torch-free."""

from moe.activations.base import ActivationSpec

GELU_TANH = ActivationSpec(
    name="gelu_tanh",
    target="moe.activations.gelu_tanh.member:GeluTanhMul",
    truth="moe.activations.gelu_tanh.truth:gelu_tanh_mul",
    identity_from=32.0,
)
