"""Weights of every method with one thing wrong: an error that names it, and never other numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from moe.errors import MoEError
from moe.formats import FORMATS
from moe.quant import QUANT
from moe.quant.check_weights import check_weights

ROWS = list(QUANT)
SCALES = ("w13_scale", "w2_scale", "w13_global", "w2_global", "a1_scale", "a2_scale")
FIELDS = ("w13", "w2", *SCALES, "w13_zero", "w2_zero")
MADE = {}


def weights_of(row):
    """Return weights of two experts, 256 columns each way, with calibrated scales where needed."""
    if row.name not in MADE:
        torch.manual_seed(0)
        w13, w2 = torch.randn(2, 256, 128).bfloat16(), torch.randn(2, 128, 128).bfloat16()
        static = FORMATS[row.scheme.activations].static
        scale = torch.tensor(0.5) if static else None
        made = QUANT.load(row.name)().quantize_weights(w13, w2)
        MADE[row.name] = made.replace(a1_scale=scale, a2_scale=scale)
    return MADE[row.name]


def set_to(value):
    """Return a change of the last element to a value, or None for dtypes that have none such."""

    def change(t):
        if t.dtype in (torch.uint8, torch.int8) or (t.element_size() == 1 and value == torch.inf):
            return None
        changed = t.float().clone()
        changed.view(-1)[-1] = value
        return changed.to(t.dtype)

    return change


def one_row_more(t):
    """Return t with its first row again; fp8 has no `cat` everywhere, its bytes have."""
    raw = t.view(torch.uint8) if t.element_size() == 1 else t
    return torch.cat([raw, raw[:1]]).view(t.dtype)


SHAPES = {
    "one row more": lambda t: one_row_more(t) if t.dim() else t.expand(2),
    "half of it": lambda t: t[..., : t.shape[-1] // 2] if t.dim() and t.shape[-1] > 1 else None,
}
DTYPES = {
    "float64": lambda t: t.double() if t.element_size() > 1 else None,
    "bytes": lambda t: t.view(torch.uint8) if t.dtype not in (torch.uint8, torch.float32) else None,
    "signed bytes": lambda t: t.view(torch.int8) if t.dtype == torch.uint8 else None,
}
VALUES = {f"{value:g}": set_to(value) for value in (float("nan"), float("inf"), -1.0, 0.0)}


def broken(row, field, change):
    """Return weights with a changed field, or None where the change changes nothing."""
    weights = weights_of(row)
    tensor = getattr(weights, field)
    if tensor is None:
        return None
    changed = change(tensor)
    return None if changed is None else weights.replace(**{field: changed})


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_right_weights_are_right(row):
    check_weights(weights_of(row), row.scheme)


@given(
    row=st.sampled_from(ROWS),
    field=st.sampled_from(FIELDS),
    change=st.sampled_from([*SHAPES, *DTYPES]),
)
def test_a_wrong_shape_or_dtype_is_an_error_that_names_the_matrix(row, field, change):
    weights = broken(row, field, {**SHAPES, **DTYPES}[change])
    if weights is None or (field[0] == "a" and change in DTYPES):
        return
    if row.scheme.weights == "model" and change in DTYPES:
        return
    if field.endswith("_global") and change == "half of it":
        return  # one of the two: a number that all experts share
    name = field.split("_")[0] if field[0] == "w" else "one scale for all tokens"
    with pytest.raises(MoEError, match=name):
        check_weights(weights, row.scheme)


def test_every_scale_of_every_method_is_a_finite_number_above_zero():
    for row in ROWS:
        for field in SCALES:
            for value, change in VALUES.items():
                weights = broken(row, field, change)
                if weights is not None:
                    with pytest.raises(MoEError, match=rf"^{field}\[.*\] is {value}: a scale of"):
                        check_weights(weights, row.scheme)


def test_what_a_format_has_must_be_there():
    for row in ROWS:
        for field in FIELDS[2:]:
            if getattr(weights_of(row), field) is None:
                continue
            with pytest.raises(MoEError, match=r"needs .*None: pass"):
                check_weights(weights_of(row).replace(**{field: None}), row.scheme)


def test_nan_of_e8m0_and_zero_points_beyond_the_codes():
    weights = weights_of(QUANT.row("mxfp8"))
    scale = weights.w2_scale.clone()
    scale[1, 2, 3] = 255
    with pytest.raises(MoEError, match=r"w2_scale\[1, 2, 3\] is NaN: a scale of mxfp8 is a finite"):
        check_weights(weights.replace(w2_scale=scale), QUANT.row("mxfp8").scheme)
    weights = weights_of(QUANT.row("int4_zp_g32"))
    zero = torch.full_like(weights.w13_zero, 16)
    with pytest.raises(
        MoEError, match="w13_zero has the zero point 16: codes of int4_zp_g32 are 0 t"
    ):
        check_weights(weights.replace(w13_zero=zero), QUANT.row("int4_zp_g32").scheme)


def test_weights_of_another_method():
    text = "the weights are in format 'fp8_channel', and the layer's is 'fp8_block': quantize them"
    with pytest.raises(MoEError, match=text):
        check_weights(weights_of(QUANT.row("fp8_channel")), QUANT.row("fp8_block").scheme)
