"""The row of the sigmoid form of GELU. No torch."""

from moe.activations.base import ActivationSpec

QUICK_GELU = ActivationSpec(
    name="quick_gelu",
    target="quick_gelu.member:QuickGeluMul",
    truth="quick_gelu.truth:quick_gelu",
    identity_from=16.0,
)
