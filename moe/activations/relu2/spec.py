"""Define the rows of squared ReLU, gated and not. Torch-free."""

from dataclasses import replace

from moe.activations.base import ActivationSpec

RELU2 = ActivationSpec(
    name="relu2",
    target="moe.activations.relu2.member:Relu2Mul",
    truth="moe.activations.relu2.truth:relu2",
    function="relu2",
)
RELU2_NO_MUL = replace(RELU2, name="relu2_no_mul", gated=False)
