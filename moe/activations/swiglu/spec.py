"""Define the row of SwiGLU with a slope of its sigmoid, an offset of up and a limit. Torch-free."""

from moe.activations.base import ActivationSpec

SWIGLU_CLAMPED = ActivationSpec(
    name="swiglu_clamped",  # with the parameters of gpt-oss
    target="moe.activations.swiglu.member:SwigluClamped",
    truth="moe.activations.swiglu.truth:swish",
    function="swish",
    alpha=1.702,
    beta=1.0,
    limit=7.0,
)
