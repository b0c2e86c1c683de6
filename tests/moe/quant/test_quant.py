"""Codes and scales of each method by hand-made examples, and how they are shared out."""

import dataclasses

import pytest
import torch

from moe.formats import FORMATS
from moe.formats.quant_tensor import QuantTensor, dequantize
from moe.layout import Layout, chunk
from moe.quant import QUANT, QuantRow
from moe.quant.base import (
    dequantize_activations,
    dequantize_weight,
    quantize_experts,
    quantize_matrix,
    scale_of,
)
from moe.spec import Needs, Scheme

FP8, INT8 = FORMATS["fp8_tensor"], FORMATS["int8_channel"]
METHODS = tuple(QUANT.rows)
QUANTIZING = tuple(name for name in METHODS if name != "none")


def method(name):
    return QUANT.load(name)()


def bits(codes):
    return codes.view(torch.uint8).tolist()


def matrix(rows, columns, **values):
    """Zeros but for values given as `r2_c7=448.0`."""
    made = torch.zeros(rows, columns)
    for place, value in values.items():
        row, column = place.split("_")
        made[int(row[1:]), int(column[1:])] = value
    return made


# --- codes


def test_fp8_codes_round_to_even_and_saturate():
    values = [0.0, 1.0, -1.0, 17.0, 19.0, 448.0, -448.0, 500.0, -1e30, 2.0**-9, 2.0**-10, 3e-3]
    wanted = [0x00, 0x38, 0xB8, 0x58, 0x5A, 0x7E, 0xFE, 0x7E, 0xFE, 0x01, 0x00, 0x02]
    assert bits(FP8.codec.encode(torch.tensor(values))) == wanted


def test_int8_codes_round_to_even_and_saturate():
    values = [0.0, 0.5, 1.5, 2.5, -0.5, -1.5, 126.6, 127.4, 128.0, -128.0, 1e30]
    wanted = [0, 0, 2, 2, 0, -2, 127, 127, 127, -127, 127]
    assert INT8.codec.encode(torch.tensor(values)).tolist() == wanted


@pytest.mark.parametrize(("fmt", "top"), [(FP8, 448.0), (INT8, 127.0)])
def test_a_scale_is_one_product_with_the_reciprocal(fmt, top):
    amax = torch.tensor([top, 2 * top, 3.0, 0.0])
    reciprocal = torch.tensor(1 / top, dtype=torch.float32)
    assert scale_of(amax, fmt).tolist() == [1.0, 2.0, float(3.0 * reciprocal), 1.0]
    assert scale_of(torch.tensor(float("nan")), fmt).isnan(), "a NaN must not get lost"


# --- one matrix


def test_a_scale_for_the_whole_matrix():
    w = torch.tensor([[896.0, 2.0, -34.0], [0.0, -896.0, 38.0]])
    codes, scale = quantize_matrix(w, FP8)
    assert (scale.item(), scale.ndim) == (2.0, 0)
    assert bits(codes) == [[0x7E, 0x38, 0xD8], [0x00, 0xFE, 0x5A]]


def test_a_scale_for_each_output_channel():
    w = torch.tensor([[127.0, 1.5, -2.5], [254.0, 3.0, -127.0], [0.0, 0.0, 0.0]])
    codes, scale = quantize_matrix(w, INT8)
    assert scale.tolist() == [1.0, 2.0, 1.0]
    assert codes.tolist() == [[127, 2, -2], [127, 2, -64], [0, 0, 0]]


def test_a_scale_for_each_block_and_for_the_short_ones_at_the_edges():
    w = matrix(
        *(130, 129),
        r0_c0=448.0,
        r127_c127=1.0,
        r5_c128=896.0,
        r6_c128=1.0,
        r129_c0=-224.0,
        r128_c127=1.0,
    )
    codes, scale = quantize_matrix(w, FORMATS["fp8_block"])
    assert scale.tolist() == [[1.0, 2.0], [0.5, 1.0]]
    assert bits(codes[:1, :1]) == [[0x7E]]
    assert bits(codes[127:, 127:]) == [[0x38, 0], [0x40, 0], [0, 0]]
    assert bits(codes[5:7, 128:]) == [[0x7E], [0x30]]
    assert bits(codes[129:, :1]) == [[0xFE]]
    assert int((codes.view(torch.uint8) != 0).sum()) == 6


@pytest.mark.parametrize("block", [(2, None), (None, 3), (2, 3), (1, 1), (1, 4)])
def test_any_block_is_quantized_as_the_format_says(block):
    fmt = dataclasses.replace(INT8, block=block)
    w = torch.randn(5, 7)
    codes, scale = quantize_matrix(w, fmt)
    down, across = block[0] or 5, block[1] or 7
    values = dequantize(QuantTensor(codes=codes, scale=scale, format=fmt))
    for r in range(0, 5, down):
        for c in range(0, 7, across):
            part = w[r : r + down, c : c + across]
            step = part.abs().amax() / 127
            assert torch.allclose(
                values[r : r + down, c : c + across] / step, (part / step).round()
            )


# --- all experts


@pytest.mark.parametrize("block", [(None, None), (1, None), (128, 128)])
@pytest.mark.parametrize("grid", [FP8, INT8], ids=lambda fmt: fmt.grid)
def test_each_expert_has_scales_of_its_own(grid, block):
    fmt = dataclasses.replace(grid, block=block)
    torch.manual_seed(0)
    w = torch.randn(3, 140, 150) * torch.tensor([1.0, 8.0, 0.1])[:, None, None]
    codes, scale = quantize_experts(w.bfloat16(), fmt)
    for e in range(3):
        alone = quantize_matrix(w[e].bfloat16(), fmt)
        assert torch.equal(codes[e].view(torch.uint8), alone[0].view(torch.uint8))
        assert torch.equal(scale[e], alone[1])


SCALE_SHAPES = {  # of w13 and w2 for N = 192, K = 320
    "none": (None, None),
    "fp8_tensor": ((), ()),
    "fp8_tensor_dynamic": ((), ()),
    "fp8_block": ((3, 3), (3, 2)),
    "int8_channel": ((384,), (320,)),
}


@pytest.mark.parametrize("experts", [0, 2])
@pytest.mark.parametrize("name", SCALE_SHAPES)
def test_shapes_and_dtypes_with_and_without_experts(name, experts):
    made = method(name).quantize_weights(
        torch.ones(experts, 384, 320).bfloat16(), torch.ones(experts, 320, 192).bfloat16()
    )
    grid = {"model": torch.bfloat16, "int8_channel": torch.int8}
    dtype = grid.get(QUANT.row(name).scheme.weights, torch.float8_e4m3fn)
    assert (made.w13.dtype, made.w2.dtype) == (dtype, dtype)
    assert (made.w13.shape, made.w2.shape) == ((experts, 384, 320), (experts, 320, 192))
    for scale, shape in zip((made.w13_scale, made.w2_scale), SCALE_SHAPES[name], strict=True):
        if shape is None:
            assert scale is None
        else:
            assert (scale.shape, scale.dtype) == ((experts, *shape), torch.float32)


@pytest.mark.parametrize("name", [name for name in SCALE_SHAPES if name != "none"])
def test_values_come_back_within_half_a_step(name):
    torch.manual_seed(1)
    w13, w2 = torch.randn(2, 384, 320), torch.randn(2, 320, 192)
    made = method(name).quantize_weights(w13, w2)
    for w, held in ((w13, made.gate_up), (w2, made.down)):
        error, scale = (dequantize_weight(held) - w).abs(), held.scale
        half = w.abs() / 16 + scale.amax() * 2**-10  # three bits of mantissa; the least step
        if name == "int8_channel":
            half = scale[:, :, None] * 0.5001
        assert bool((error <= half).all())
        assert bool((error > half / 2).any()), "the limit is no looser than it must be"


# --- activations


def test_static_activations_take_the_given_scale_and_saturate():
    x = torch.tensor([[1.0, -17.0], [500.0, 2.0]])
    made = method("fp8_tensor").quantize_input(x, torch.tensor(0.5))
    assert made.scale.item() == 0.5
    assert bits(made.codes) == [[0x40, 0xE0], [0x7E, 0x48]]  # 2, -34 to -32, 1000 to 448, 4


def test_static_activations_without_their_scale_are_refused():
    text = "fp8_tensor needs calibrated activation scales, and got None: pass a1_scale and a2_scale"
    with pytest.raises(ValueError, match=text):
        method("fp8_tensor").quantize_input(torch.ones(1, 2), None)


def test_a_dynamic_scale_spans_all_rows():
    x = torch.tensor([[2.0, 0.0], [-896.0, 4.0]])
    made = method("fp8_tensor_dynamic").quantize_input(x, None)
    assert (made.scale.item(), made.scale.ndim) == (2.0, 0)
    assert bits(made.codes) == [[0x38, 0x00], [0xFE, 0x40]]
    assert not method("fp8_tensor_dynamic").input_scale_is_local


def test_a_scale_for_each_group_of_128_columns():
    x = matrix(2, 130, r0_c0=448.0, r0_c128=896.0, r0_c129=2.0, r1_c127=224.0)
    made = method("fp8_block").quantize_input(x, None)
    assert made.scale.tolist() == [[1.0, 2.0], [0.5, 1.0]]
    assert bits(made.codes[:, [0, 127, 128, 129]]) == [[0x7E, 0, 0x7E, 0x38], [0, 0x7E, 0, 0]]
    assert torch.equal(dequantize_activations(made), x)


def test_a_scale_for_each_token():
    x = torch.tensor([[127.0, 2.5], [-254.0, 3.0], [0.0, 0.0]])
    made = method("int8_channel").quantize_input(x, None)
    assert made.scale.tolist() == [[1.0], [2.0], [1.0]]
    assert made.codes.tolist() == [[127, 2], [-127, 2], [0, 0]]


@pytest.mark.parametrize("name", METHODS)
def test_no_rows_are_quantized_too(name):
    made = method(name).quantize_input(torch.ones(0, 256).bfloat16(), torch.tensor(1.0))
    assert made.codes.shape == (0, 256)
    assert dequantize_activations(made).shape == (0, 256)


@pytest.mark.parametrize("name", QUANTIZING)
def test_a_nan_stays_visible(name):
    x = torch.ones(2, 256)
    x[1, 3] = float("nan")
    values = dequantize_activations(method(name).quantize_input(x, torch.tensor(1.0)))
    assert bool(values[1].isnan().any())


@pytest.mark.parametrize("name", METHODS)
def test_the_intermediate_follows_the_same_rule(name):
    torch.manual_seed(2)
    h, scale = torch.randn(5, 256), torch.tensor(0.01)
    first, second = (
        f(h, scale) for f in (method(name).quantize_input, method(name).quantize_intermediate)
    )
    assert torch.equal(dequantize_activations(first), dequantize_activations(second))


# --- shards: weights are quantized whole, then each rank takes its columns

NAMED = torch.arange(8.0)[None, :, None] + 10  # rows of w13, N = 4: gate 10..13, up 14..17


def test_gate_and_up_are_each_split():
    quant = method("none")
    whole = quant.quantize_weights(NAMED.expand(1, 8, 2), torch.arange(8.0).view(1, 2, 4))
    left, right = (quant.shard(whole, columns, 4) for columns in (range(2), range(2, 4)))
    assert left.w13[0, :, 0].tolist() == [10, 11, 14, 15]
    assert right.w13[0, :, 0].tolist() == [12, 13, 16, 17]
    assert left.w2[0].tolist() == [[0, 1], [4, 5]]
    assert right.w2[0].tolist() == [[2, 3], [6, 7]]


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("name", [n for n in METHODS if n != "fp8_block"])
def test_a_rank_s_values_are_those_of_its_columns(name, ranks):
    """Uneven where ranks do not divide them; no shard is quantized anew."""
    check_shards(name, intermediate=10, pieces=[chunk(10, ranks, r) for r in range(ranks)])


@pytest.mark.parametrize("pieces", [[range(128), range(128, 384)], [range(384)]])
def test_block_shards_end_with_blocks(pieces):
    check_shards("fp8_block", intermediate=384, pieces=pieces)


def check_shards(name, intermediate, pieces):
    torch.manual_seed(3)
    w13, w2 = torch.randn(2, 2 * intermediate, 6), torch.randn(2, 6, intermediate)
    w13[:, 0] *= 100  # a shard without this row would find another scale
    quant = method(name)
    whole = quant.quantize_weights(w13, w2)
    values13 = dequantize_weight(whole.gate_up)
    values2 = dequantize_weight(whole.down)
    for columns in pieces:
        part = quant.shard(whole, columns, intermediate)
        rows = [*columns, *(intermediate + c for c in columns)]
        assert torch.equal(dequantize_weight(part.gate_up), values13[:, rows])
        assert torch.equal(dequantize_weight(part.down), values2[:, :, list(columns)])
        assert part.w13.is_contiguous()
        assert part.w2.is_contiguous()


def test_static_scales_go_with_every_shard():
    quant = method("fp8_tensor")
    whole = quant.quantize_weights(torch.ones(1, 8, 2), torch.ones(1, 2, 4))
    a1, a2 = torch.tensor(1.5), torch.tensor(2.5)
    part = quant.shard(whole.replace(a1_scale=a1, a2_scale=a2), range(2), 4)
    assert (part.a1_scale, part.a2_scale) == (a1, a2)


@pytest.mark.parametrize("name", METHODS)
def test_a_rank_without_experts_shards_nothing(name):
    quant = method(name)
    whole = quant.quantize_weights(torch.ones(0, 512, 128), torch.ones(0, 128, 256))
    part = quant.shard(whole, range(128, 256), 256)
    assert (part.w13.shape, part.w2.shape) == ((0, 256, 128), (0, 128, 128))
    assert dequantize_weight(part.gate_up).shape == (0, 256, 128)


@pytest.mark.parametrize(
    ("columns", "intermediate"),
    [(range(96), 256), (range(96, 256), 256), (range(128), 192)],
    ids=["end", "start", "gate/up seam"],
)
def test_a_block_that_straddles_is_refused(columns, intermediate):
    quant = method("fp8_block")
    whole = quant.quantize_weights(
        torch.ones(1, 2 * intermediate, 128), torch.ones(1, 128, intermediate)
    )
    text = rf"columns range\({columns.start}, {columns.stop}\) of {intermediate} cut a block of 128"
    with pytest.raises(ValueError, match=text + "; choose sizes whose"):
        quant.shard(whole, columns, intermediate)


def test_a_layout_s_columns_are_what_shard_takes():
    """The layout's own uneven split goes through `shard` without loss."""
    layout = Layout(dp_size=2, tp_size=2)
    pieces = [layout.intermediate_of(rank, 10) for rank in range(4)]
    assert [len(piece) for piece in pieces] == [3, 3, 2, 2]
    check_shards("int8_channel", intermediate=10, pieces=pieces)


def test_a_row_whose_needs_refuse_its_own_formats_is_refused():
    says = "odd produces model weights with int8_token activations, .*; set formats=ANY in"
    with pytest.raises(ValueError, match=says):
        QuantRow(
            name="odd",
            target="x:Y",
            scheme=Scheme(weights="model", activations="int8_token"),
            needs=Needs(dtypes=frozenset({"fp16"})),
        )
