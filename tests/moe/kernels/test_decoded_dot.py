"""Products whose weights are decoded, grouped and batched, against dequantized float64 values."""

import pytest
import torch

from moe import guarded_buffers
from moe.errors import MoEError
from moe.formats import FORMATS
from moe.formats.quant_tensor import QuantTensor
from moe.kernels.align import align_tokens
from moe.kernels.batched_gemm import batched_gemm, batched_gemm_torch
from moe.kernels.grouped_gemm import grouped_gemm, grouped_gemm_torch
from moe.kernels.tiles import Tile
from moe.quant import QUANT
from moe.types import Activations
from tests.moe.kernels.kernel_cases import relative_rms

METHODS = [row.name for row in QUANT.built_in if row.group is not None]
IDS = torch.tensor([[0, 1], [2, 0], [-1, 1], [1, 2], [0, 2]], dtype=torch.int32)
USED = IDS.flatten() >= 0


def operands(name, inner=256, dtype=torch.bfloat16, out=96):
    """Quantized rows [5, inner] and weights [3, out, inner]."""
    torch.manual_seed(0)
    method = QUANT.load(name)()
    sizes = torch.exp2(torch.randn(3, out, 1))
    w = (torch.randn(3, out, inner) * sizes).to(dtype)
    quantized = method.quantize_weights(w, w)
    return method.quantize_input(torch.randn(5, inner).to(dtype), torch.tensor(700.0)), quantized


def product(x, w, device, tile=None):
    block_m = 16 if tile is None else tile.block_m
    aligned = align_tokens(IDS.to(device), 3, block_m)
    return grouped_gemm(
        to(x, device), to(w, device), aligned, rows=10, dtype=torch.float32, tile=tile
    )


def to(tensor, device):
    names = ("codes", "scale", "global_scale", "zero_point")
    parts = {name: getattr(tensor, name) for name in names}
    return tensor.replace(**{n: None if t is None else t.to(device) for n, t in parts.items()})


def truth(x, w):
    aligned = align_tokens(IDS.to(x.codes.device), 3, 16)
    return grouped_gemm_torch(x, w, aligned, rows=10, dtype=torch.float32).cpu()


@pytest.mark.parametrize("name", METHODS)
def test_every_method(name, kernel_device):
    x, weights = operands(name)
    y = product(x, weights.gate_up, kernel_device).cpu()
    assert relative_rms(y[USED], truth(x, weights.gate_up)[USED]) < 3e-6


@pytest.mark.parametrize("name", ["mxfp4", "int4_zp_g32", "w4a8", "nvfp4_dynamic"])
def test_a_bias_is_added(name, kernel_device):
    x, weights = operands(name)
    bias, aligned = torch.randn(3, 96) * 100, align_tokens(IDS.to(kernel_device), 3, 16)
    run = {"rows": 10, "dtype": torch.float32}
    expected = grouped_gemm_torch(x, weights.gate_up, aligned, bias=bias, **run).cpu()
    y = grouped_gemm(x, weights.gate_up, aligned, bias=bias, **run).cpu()
    assert relative_rms(y[USED], expected[USED]) < 3e-6
    assert relative_rms(truth(x, weights.gate_up)[USED], expected[USED]) > 0.1


@pytest.mark.parametrize("name", ["mxfp4", "int4_zp_g32", "w4a8"])
def test_fp16_rows(name, kernel_device):
    x, weights = operands(name, dtype=torch.float16)
    y = product(x, weights.gate_up, kernel_device).cpu()
    assert relative_rms(y[USED], truth(x, weights.gate_up)[USED]) < 3e-6


@pytest.mark.parametrize(("name", "inner"), [("mxfp4_mxfp8", 160), ("nvfp4", 144), ("mxfp8", 96)])
def test_inner_sizes_that_no_step_divides(name, inner, kernel_device):
    x, weights = operands(name, inner)
    y = product(x, weights.gate_up, kernel_device).cpu()
    assert relative_rms(y[USED], truth(x, weights.gate_up)[USED]) < 3e-6


@pytest.mark.parametrize("name", ["int4_zp_g128", "mxfp4_mxfp4", "nvfp4"])
def test_small_tiles(name, kernel_device):
    tile = Tile(block_m=16, block_n=32, block_k=128, group_m=2, num_warps=4, num_stages=2)
    x, weights = operands(name)
    y = product(x, weights.gate_up, kernel_device, tile).cpu()
    assert relative_rms(y[USED], truth(x, weights.gate_up)[USED]) < 3e-6


def test_a_nan_scale_reaches_its_rows_and_no_other(kernel_device):
    x, weights = operands("mxfp4_mxfp8")
    x.scale[2, 1] = 255
    isnan = product(x, weights.gate_up, kernel_device).cpu().isnan()
    assert isnan[5].all(), "slot 1 of token 2"
    assert not isnan[[0, 1, 2, 3, 6, 7, 8, 9]].any()


def test_what_does_not_belong_together_is_named(kernel_device):
    x, weights = operands("mxfp4_mxfp8")
    w = weights.gate_up
    with pytest.raises(MoEError, match="format 'mxfp4' needs a scale, and it is None: pass what"):
        product(x, w.replace(scale=None), kernel_device)
    with pytest.raises(MoEError, match="float32 for mxfp4 has e8m0 scales; pass a tensor of dtype"):
        product(x, w.replace(scale=w.scale.float()), kernel_device)
    with pytest.raises(MoEError, match=r"scales of shape \(3, 96, 7\) .* one for each of"):
        product(x, w.replace(scale=w.scale[:, :, :7]), kernel_device)
    x4, weights4 = operands("int4_zp_g32")
    with pytest.raises(MoEError, match="'int4_zp_g32' needs zero_point, and it is None: pass what"):
        product(x4, weights4.gate_up.replace(zero_point=None), kernel_device)
    xn, weights_n = operands("nvfp4")
    with pytest.raises(MoEError, match="'nvfp4' needs global_scale, and it is None: pass what the"):
        product(xn, weights_n.gate_up.replace(global_scale=None), kernel_device)
    with pytest.raises(MoEError, match="rows of 128 elements do not fit weights of 256 inputs"):
        product(Activations(codes=torch.ones(5, 128)), w, kernel_device)
    as_rows = QuantTensor(
        codes=weights4.gate_up.codes[0, :5],
        scale=weights4.gate_up.scale[0, :5],
        zero_point=weights4.gate_up.zero_point[0, :5],
        format=FORMATS["int4_zp_g32"],
    )
    with pytest.raises(MoEError, match=r"int4_zp_g32 has scales of groups .* another format"):
        product(as_rows, w, kernel_device)


def test_rows_whose_scales_no_decoding_kernel_reads_are_an_error(kernel_device):
    """Their scales were dropped, and fp16 rows met nvfp4's scales as another format's."""
    _, weights = operands("int4_g32")
    method = QUANT.load("fp8_block")()
    rows = method.quantize_input(torch.randn(5, 256).bfloat16(), None)
    with pytest.raises(MoEError, match=r"fp8_group has scales of groups .* another format"):
        product(rows, weights.gate_up, kernel_device)
    _, weights = operands("nvfp4")
    half = Activations(codes=torch.ones(5, 256, dtype=torch.float16))
    with pytest.raises(MoEError, match="no kernel multiplies fp16 rows by nvfp4 weights; use bf16"):
        product(half, weights.gate_up, kernel_device)


def test_batched_rows_of_every_method(kernel_device):
    """Rows beyond a count hold NaN where their format has one, and are neither read nor written."""
    counts = torch.tensor([5, 0, 3], dtype=torch.int32)
    used = torch.arange(5)[None, :] < counts[:, None]
    for name in METHODS:
        x, weights = operands(name, out=40)
        names = [n for n in ("codes", "scale") if getattr(x, n) is not None]
        rows = x.replace(**{n: torch.stack([_bytes(getattr(x, n))] * 3) for n in names})
        rows.codes[~used] = 0xFF if rows.codes.dtype == torch.uint8 else torch.nan
        rows = rows.replace(**{n: getattr(rows, n).view(getattr(x, n).dtype) for n in names})
        w, bias = weights.gate_up, torch.randn(3, 40)
        expected = batched_gemm_torch(rows, w, counts, dtype=torch.float32, bias=bias)
        with guarded_buffers.poisoned():
            y = batched_gemm(
                *(to(rows, kernel_device), to(w, kernel_device), counts.to(kernel_device)),
                dtype=torch.float32,
                bias=bias.to(kernel_device),
            ).cpu()
            assert guarded_buffers.broken_guards() == []
        is_used = used.cpu()
        assert bool(y[~is_used].isnan().all()), f"{name}: a row beyond the count was written"
        assert relative_rms(y[is_used], expected.cpu()[is_used]) < 3e-6, name


def _bytes(t):
    return t.view(torch.uint8) if t.element_size() == 1 else t


@pytest.mark.parametrize("name", ["fp8_block", "w4a8"])
def test_scales_in_wider_rows_are_read_as_they_are(name, kernel_device):
    x, weights = operands(name)
    wide = torch.full((len(x.scale), x.scale.shape[1] + 3), torch.nan)
    wide[:, : x.scale.shape[1]] = x.scale
    strided = x.replace(scale=wide[:, : x.scale.shape[1]])
    as_they_are = [product(rows, weights.gate_up, kernel_device).cpu() for rows in (x, strided)]
    assert torch.equal(as_they_are[0][USED], as_they_are[1][USED])
