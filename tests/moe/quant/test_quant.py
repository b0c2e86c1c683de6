"""What every quant method keeps: shapes, values, rounding of rows, and shards of its weights."""

import pytest
import torch

from moe.formats import FORMATS
from moe.layout import Layout, chunk
from moe.quant import QUANT, QuantSpec
from moe.quant.base import dequantize_activations, dequantize_weight
from moe.spec import Needs, Scheme

METHODS = tuple(QUANT.rows)
ONE_BYTE = ("e4m3", "e4m3fnuz", "int8")  # grids


def method(name):
    return QUANT.load(name)()


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


@pytest.mark.parametrize("name", METHODS)
def test_no_rows_are_quantized_too(name):
    made = method(name).quantize_input(torch.ones(0, 256).bfloat16(), torch.tensor(1.0))
    assert made.shape == (0, 256)
    assert dequantize_activations(made).shape == (0, 256)


@pytest.mark.parametrize("name", METHODS)
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


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize("name", [row.name for row in QUANT if row.block is None])
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


@pytest.mark.parametrize("name", METHODS)
def test_a_rank_without_experts_shards_nothing(name):
    quant = method(name)
    whole = quant.quantize_weights(torch.ones(0, 512, 128), torch.ones(0, 128, 256))
    part = quant.shard(whole, range(128, 256), 256)
    assert (part.gate_up.shape, part.down.shape) == ((0, 256, 128), (0, 128, 128))
    assert dequantize_weight(part.gate_up).shape == (0, 256, 128)


def test_a_row_whose_needs_refuse_its_own_formats_is_refused():
    says = "odd produces model weights with int8_token activations, .*; set formats=ANY in"
    with pytest.raises(ValueError, match=says):
        QuantSpec(
            name="odd",
            target="x:Y",
            scheme=Scheme(weights="model", activations="int8_token"),
            needs=Needs(dtypes=frozenset({"fp16"})),
        )


def test_a_layout_s_columns_are_what_shard_takes():
    """The layout's own uneven split goes through `shard` without loss."""
    layout = Layout(dp_size=2, tp_size=2)
    pieces = [layout.intermediate_of(rank, 10) for rank in range(4)]
    assert [len(piece) for piece in pieces] == [3, 3, 2, 2]
    check_shards("int8_channel", intermediate=10, pieces=pieces)


@pytest.mark.parametrize("row", list(QUANT), ids=lambda row: row.name)
def test_a_method_makes_the_formats_that_it_names(row):
    method = QUANT.load(row.name)()
    made = method.quantize_weights(
        torch.ones(2, 512, 384).bfloat16(), torch.ones(2, 384, 256).bfloat16()
    )
    weights, activations = FORMATS[row.scheme.weights], FORMATS[row.scheme.activations]
    assert made.format == weights
    assert made.w13.dtype == made.w2.dtype == (weights.codec.dtype or torch.bfloat16)
    assert row.scheme.weight_bytes in (None, made.w13.element_size())
    x = method.quantize_input(torch.ones(5, 384).bfloat16(), torch.tensor(0.5))
    assert x.format == activations
    assert x.codes.dtype == (activations.codec.dtype or torch.bfloat16)
    for held in (made.gate_up, made.down, x):
        assert (held.scale is None) == (held.format.block is None)
        held.check()
    sides = [side for side in weights.block or () if side is not None and side > 1]
    assert row.block == max(sides, default=None)
    assert row.static == activations.static


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize(
    "name", [row.name for row in QUANT.built_in if FORMATS[row.scheme.weights].grid in ONE_BYTE]
)
def test_a_shard_is_the_same_before_and_after_where_blocks_fit(name, ranks):
    """Quantizing gate, up and down of a shard alone gives the codes and scales of that shard.

    A scale of columns that are split is the exception: it is that of the whole, as in checkpoints.
    """
    torch.manual_seed(4)
    n, k = 512, 128
    w13, w2 = torch.randn(2, 2 * n, k).bfloat16(), torch.randn(2, k, n).bfloat16()
    method, fmt = QUANT.load(name)(), FORMATS[QUANT.row(name).scheme.weights]
    down, across = fmt.block
    whole = method.quantize_weights(w13, w2)
    for columns in (chunk(n, ranks, r) for r in range(ranks)):
        part = method.shard(whole, columns, n)
        rows = [*columns, *(n + c for c in columns)]
        alone = method.quantize_weights(w13[:, rows], w2[:, :, list(columns)])
        if down is not None:
            assert torch.equal(part.w13.view(torch.uint8), alone.w13.view(torch.uint8))
            assert torch.equal(part.w13_scale, alone.w13_scale)
        else:
            assert torch.equal(part.w13_scale, whole.w13_scale)
        if across is not None:
            assert torch.equal(part.w2.view(torch.uint8), alone.w2.view(torch.uint8))
            assert torch.equal(part.w2_scale, alone.w2_scale)
        else:
            assert torch.equal(part.w2_scale, whole.w2_scale)
