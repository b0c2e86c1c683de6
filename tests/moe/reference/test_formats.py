"""The reference's number formats against torch's own casts, which share no code with them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from moe.formats import FORMATS
from moe.formats.quant_tensor import spread_blocks, spread_scale
from moe.quant import QUANT
from moe.quant.base import dequantize_activations, dequantize_weight
from moe.reference import formats

if TYPE_CHECKING:
    from moe.formats.format import Format

FP8, INT8 = FORMATS["fp8_tensor"], FORMATS["int8_token"]
_DRAW = torch.Generator().manual_seed(0)
NUMBERS = torch.cat(
    [torch.randn(4000, generator=_DRAW) * scale for scale in (1e-3, 0.05, 1.0, 30.0)]
    + [torch.tensor([0.0, -0.0, 2.0**-9, 2.0**-10, 31.37, 15.99, 17.0, 18.0, 448.0, -440.0])]
)


@pytest.mark.parametrize(
    ("grid", "dtype"),
    [("bf16", torch.bfloat16), ("fp16", torch.float16), (FP8, torch.float8_e4m3fn)],
)
def test_on_grid_is_the_nearest_even_cast(grid: Format | str, dtype: torch.dtype) -> None:
    assert torch.equal(formats.on_grid(NUMBERS, grid), NUMBERS.to(dtype).float())


def test_int8_grid_rounds_ties_to_even() -> None:
    got = formats.on_grid(torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5]), INT8)
    assert got.tolist() == [0.0, 2.0, 2.0, 0.0, -2.0]


@pytest.mark.parametrize(
    ("grid", "x", "step"),
    [
        ("bf16", 1.0, 2**-7),
        ("bf16", 1.99, 2**-7),
        ("bf16", 2.0, 2**-6),
        (FP8, 1.0, 2**-3),
        (FP8, 448.0, 32.0),
        (FP8, 2**-8, 2**-9),
        (FP8, 0.0, 2**-9),
        ("f32", 3.0, 0.0),
        (INT8, 90.0, 1.0),
    ],
)
def test_step_is_the_distance_between_neighbours(grid: Format | str, x: float, step: float) -> None:
    assert float(formats.step_of(torch.tensor([x]), grid)) == step


def test_tie_is_the_distance_from_the_nearest_rounding_tie() -> None:
    fmt = FORMATS["int8_token"]
    q = formats.quantize(torch.tensor([0.25, 0.5, 0.9, 130.0]), torch.ones(()), fmt)
    assert q.tie.tolist() == pytest.approx([0.25, 0.0, 0.4, torch.inf])
    assert q.values.tolist() == [0.0, 0.0, 1.0, 127.0]


@pytest.mark.parametrize("name", [row.name for row in QUANT])
def test_weights_are_what_the_quant_method_stores(name: str) -> None:
    """Two implementations, no shared code, the same values bit for bit."""
    row = QUANT.row(name)
    w13 = (torch.randn(2, 320, 200) * torch.rand(2, 1, 1)).bfloat16()
    w2 = torch.randn(2, 200, 160).bfloat16()
    stored = QUANT.load(name)().quantize_weights(w13, w2)
    fmt = FORMATS[row.scheme.weights]
    for held, plain in ((stored.gate_up, w13), (stored.down, w2)):
        expected = torch.stack([formats.weight_values(w.float(), fmt) for w in plain])
        assert torch.equal(dequantize_weight(held), expected)


@pytest.mark.parametrize(
    "name", [row.name for row in QUANT if FORMATS[row.scheme.activations].block is not None]
)
@pytest.mark.parametrize("width", [256, 200, 64])
def test_activations_are_what_the_quant_method_sends(name: str, width: int) -> None:
    fmt = FORMATS[QUANT.row(name).scheme.activations]
    x = torch.randn(9, width).bfloat16()
    x[3] = 0
    static = torch.tensor(0.004) if fmt.static else None  # so small that many values saturate
    sent = QUANT.load(name)().quantize_input(x, static)
    scale = formats.activation_scale(x.float(), fmt, static)
    expected = formats.quantize(x.float(), scale, fmt).values
    assert torch.equal(formats.quantized_values(x.float(), scale, fmt), expected)
    assert torch.equal(dequantize_activations(sent), expected)


def test_a_group_of_no_rows_is_no_error() -> None:
    assert formats.group_amax(torch.zeros(0, 256), 128).shape == (0, 2)


GROUPED = ("int4_g32", "int4_zp_g64", "int8_g128", "int8_zp_g32", "mxfp4", "fp8_channel")


@pytest.mark.parametrize("model", ["bf16", "fp16"])
def test_weights_that_are_dequantized_in_the_layer_s_dtype(model: str) -> None:
    """As a kernel does: the scale is cast, and its product with the code is rounded."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[model]
    generator = torch.Generator().manual_seed(0)
    for name in GROUPED:
        w = torch.randn(64, 256, generator=generator)
        stored = QUANT.load(name)().quantize_weights(w[None], w[None]).gate_up.expert(0)
        assert stored.scale is not None
        codes = stored.format.codec.decode(stored.codes)
        if stored.zero_point is not None:
            codes = codes - spread_blocks(stored, stored.zero_point.float())
        product = codes.to(dtype) * spread_scale(stored).to(dtype)
        rounded = formats.rounded_weight_values(w, FORMATS[QUANT.row(name).scheme.weights], model)
        assert torch.equal(rounded, product.float()), name
        plain = formats.weight_values(w, FORMATS[QUANT.row(name).scheme.weights])
        assert torch.equal(rounded, plain) == (name == "mxfp4"), name
