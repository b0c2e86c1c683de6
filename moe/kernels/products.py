"""Share what the grouped and the batched GEMM have in common: operands, tiles, and a tile's result.

A product is one of two kinds. Values, and codes whose scales are constant for 128 columns or more,
are multiplied as they are; weights with scales of smaller groups, or of four bits, are decoded as
they are loaded. What the two need goes to the same kernels as one list of arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from moe.errors import MoEError
from moe.formats.quant_tensor import QuantTensor, spread_blocks, spread_scale
from moe.kernels import rounding
from moe.kernels.arranged import PARTS, Arranged, arranged
from moe.kernels.decode import (
    check_decoded,
    check_rows,
    code_kind,
    decoded_rows,
    scale_kind,
)
from moe.kernels.decoded_dot import decoded_dot
from moe.kernels.launch import INTERPRETED, shared_bytes
from moe.kernels.scaled_dot import scaled_dot
from moe.kernels.scales import w_kind_of, x_kind_of
from moe.kernels.tiles import Tile, decoding_tile, gemm_tile, interpreted_tile, is_decoded
from moe.spec import BLOCK

if TYPE_CHECKING:
    from torch import Tensor

_CODES = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.int8)


@dataclass(frozen=True, kw_only=True)
class Product:
    """Hold the launch arguments of x @ w.T that follow from operands and tile.

    x, w: contiguous values or codes. extras: scales, zero points, global scales and bias, in the
    kernels' order. sizes: out, inner. constants: compile-time arguments and options.
    """

    x: Tensor
    w: Tensor
    extras: tuple[Tensor | None, ...]
    sizes: tuple[int, int]
    tile: Tile
    constants: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """block_m: rows of a program. blocks: how many blocks there are, about; at most."""

    block_m: int
    blocks: int


def prepared(w: QuantTensor) -> QuantTensor | Arranged:
    """Return weights as the kernels read them without further work: arranged, if decoded."""
    return arranged(w) if is_decoded(w.format) else w


def product_of(
    x: QuantTensor, w: QuantTensor | Arranged, bias: Tensor | None, rows: Rows, tile: Tile | None
) -> Product:
    """Return the arguments for rows x [*, in] and weights w [e, out, in]; see `check_operands`.

    tile: None: the one that fits. Weights that are decoded and not yet arranged are arranged here,
    which takes longer than the product.
    """
    if is_decoded(w.format):
        return _decoded(x, w, bias, rows, tile)
    assert isinstance(w, QuantTensor)
    x_kind, w_kind = x_kind_of(x.format), w_kind_of(w.format)
    blocked = x_kind == "group" or w_kind == "block"
    tile = tile or _tile(x.codes, w.codes, rows, blocked)
    assert not blocked or tile.block_k == BLOCK, "a step must be one block of scales"
    is_fp8 = x.codes.dtype == w.codes.dtype == torch.float8_e4m3fn
    return Product(
        x=x.codes.contiguous(),
        w=w.codes.contiguous(),
        extras=(_contiguous(x.scale), _contiguous(w.scale), None, None, None, _contiguous(bias)),
        sizes=(w.codes.shape[1], w.codes.shape[2]),
        tile=tile,
        constants=_constants(tile, x_scale=x_kind, w_scale=w_kind)
        | {
            "INTEGER": x.codes.dtype == w.codes.dtype == torch.int8,
            "PRECISE": min(128, tile.block_k) if is_fp8 else 0,
            "EVEN": w.codes.shape[2] % tile.block_k == 0,
        },
    )


def _decoded(
    x: QuantTensor, w: QuantTensor | Arranged, bias: Tensor | None, rows: Rows, tile: Tile | None
) -> Product:
    w = arranged(w) if isinstance(w, QuantTensor) else w
    _, out, inner = w.shape
    has_sums = scale_kind(w.format) == "sums" and w.span < PARTS
    tile = tile or decoding_tile(
        *(rows.block_m, out),
        interpreted=INTERPRETED,
        shared_bytes=shared_bytes(w.codes.device),
        blocks=rows.blocks,
        has_sums=has_sums,
    )
    x_scale = None if is_decoded(x.format) else x.scale
    kind = "none" if x_scale is None else scale_kind(x.format)
    return Product(
        x=decoded_rows(x),
        w=w.codes,
        extras=(
            *(_contiguous(x_scale), w.scale, w.zero_point),
            *(x.global_scale, _contiguous(w.global_scale), _contiguous(bias)),
        ),
        sizes=(out, inner),
        tile=tile,
        constants=_constants(tile, x_scale=kind, w_scale=scale_kind(w.format))
        | {
            "KIND": code_kind(w.format),
            "PACKED": w.format.packing > 1,
            "SPAN": w.span,
            "WIDTH": w.width,
            "EVEN": inner % (PARTS * w.width) == 0,
        },
    )


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _constants(tile: Tile, *, x_scale: str, w_scale: str) -> dict[str, Any]:
    """Return the constants of a product that is not decoded, but for types and sizes."""
    return {
        "X_SCALE": x_scale,
        "W_SCALE": w_scale,
        "KIND": "plain",
        "PACKED": False,
        "SPAN": 1,
        "WIDTH": 0,
        "INTEGER": False,
        "PRECISE": 0,
        "BLOCK_M": tile.block_m,
        "BLOCK_N": tile.block_n,
        "BLOCK_K": tile.block_k,
        "num_warps": tile.num_warps,
        "num_stages": tile.num_stages,
    }


def _tile(x: Tensor, w: Tensor, rows: Rows, blocked: bool) -> Tile:
    _, out, inner = w.shape
    if INTERPRETED:
        return interpreted_tile(rows.block_m, out, inner, blocked=blocked)
    size, limit = max(x.element_size(), w.element_size()), shared_bytes(x.device)
    return gemm_tile(
        *(rows.block_m, out, inner, size),
        blocked=blocked,
        shared_bytes=limit,
        blocks=rows.blocks,
    )


def check_operands(x: QuantTensor, w: QuantTensor | Arranged) -> None:
    """Raise MoEError for formats, dtypes, scales and sizes that do not fit each other."""
    if is_decoded(x.format) or is_decoded(w.format):
        if isinstance(w, QuantTensor):
            check_decoded(w)
        check_rows(x)
        if x.codes.dtype == torch.float16 and w.format.scale_dtype == "e4m3":
            raise MoEError(f"no kernel multiplies fp16 rows by {w.format.name} weights; use bf16")
        if not is_decoded(w.format):
            rule = "quantize the weights in groups, too, or not the rows"
            raise MoEError(
                f"no kernel multiplies {x.format.name} rows by {w.format.name} weights; {rule}"
            )
        return
    if x.codes.dtype != w.codes.dtype and (x.codes.dtype in _CODES or w.codes.dtype not in _CODES):
        raise MoEError(
            f"cannot multiply {x.codes.dtype} rows by {w.codes.dtype} weights; quantize both, or "
            "only weights"
        )
    x.check()
    if isinstance(w, QuantTensor):
        w.check()


def check_bias(bias: Tensor | None, shape: tuple[int, ...]) -> None:
    """Raise MoEError unless the bias is None or [e, out] for weights of shape [e, out, in]."""
    if bias is not None and bias.shape != shape[:2]:
        raise MoEError(
            f"bias is {list(bias.shape)}; weights {list(shape)} need one value for each of their "
            f"rows: {list(shape[:2])}"
        )


@triton.jit
def _with_bias(result, bias_ptr, expert, column, out):
    """Return the tile float32 [BLOCK_M, BLOCK_N] plus the bias of its columns, if there is one."""
    if bias_ptr is not None:
        bias = tl.load(bias_ptr + expert * out + column, mask=column < out, other=0.0)
        result += bias.to(tl.float32)[None, :]
    return result


@triton.jit
def store_tile(
    x_ptr, w_ptr, y_ptr, x_scale_ptr, w_scale_ptr, zero_ptr, x_total_ptr, w_total_ptr, bias_ptr,
    expert, source, row, real, column, out, inner,
    X_SCALE: tl.constexpr, W_SCALE: tl.constexpr, KIND: tl.constexpr, PACKED: tl.constexpr,
    SPAN: tl.constexpr, WIDTH: tl.constexpr, INTEGER: tl.constexpr, PRECISE: tl.constexpr,
    EVEN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Write the tile of rows `row` of y: x[source] @ w[expert].T, scaled, with bias, rounded once.

    source, row: [BLOCK_M] int64; real: which of them exist. column: [BLOCK_N].
    """
    if KIND == "plain":
        result = scaled_dot(
            x_ptr, w_ptr, x_scale_ptr, w_scale_ptr, expert, source, real, column, out, inner,
            X_SCALE, W_SCALE, INTEGER, PRECISE, EVEN, BLOCK_M, BLOCK_N, BLOCK_K,
        )  # fmt: skip
    else:
        result = decoded_dot(
            x_ptr, w_ptr, w_scale_ptr, zero_ptr, expert, source, real, column, out, inner,
            KIND, W_SCALE, PACKED, SPAN, WIDTH, EVEN, BLOCK_M, BLOCK_N,
        )  # fmt: skip
        if X_SCALE == "tensor":
            result *= tl.load(x_scale_ptr)
        if X_SCALE == "token":
            result *= tl.load(x_scale_ptr + source)[:, None]
        if x_total_ptr is not None:
            result = tl.div_rn(result, tl.zeros_like(result) + tl.load(x_total_ptr))
        if w_total_ptr is not None:
            result = tl.div_rn(result, tl.zeros_like(result) + tl.load(w_total_ptr + expert))
    result = _with_bias(result, bias_ptr, expert, column, out)
    y = rounding.to_model_dtype(result, y_ptr.dtype.element_ty)
    live = real[:, None] & (column < out)[None, :]
    tl.store(y_ptr + row[:, None] * out + column[None, :], y, mask=live)


def values_of(tensor: QuantTensor) -> Tensor:
    """Return dequantized float64 values, for the kernels' twins."""
    codes = tensor.codes
    if tensor.format.packing > 1:
        values = tensor.format.codec.decode(codes).double()
    else:
        values = codes.double() if codes.dtype.itemsize > 1 else codes.float().double()
    if tensor.zero_point is not None:
        values -= spread_blocks(tensor, tensor.zero_point.double())
    return values if tensor.scale is None else values * spread_scale(tensor)
