"""Grouped GEMM of operands that are decoded while they are loaded: weight-only, mx* and nvfp4.

The result is that of `moe.kernels.grouped_gemm`, which calls this module for formats with groups.
Products are in bf16 where both operands are exact in it, otherwise in float32: tensor cores of
Hopper have neither fp4 nor scales of groups. Sums are float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl

from moe.errors import MoEError
from moe.kernels import rounding
from moe.kernels.decode import (
    code_kind,
    decoded,
    is_decoded,
    scale_kind,
    scale_values,
)
from moe.kernels.launch import INTERPRETED, launch
from moe.kernels.schedule import tile_of, with_bias
from moe.kernels.tiles import Tile, decoding_tile

if TYPE_CHECKING:
    from torch import Tensor

    from moe.formats.format import Format
    from moe.formats.quant_tensor import QuantTensor
    from moe.kernels.align import Aligned

_INTERPRETED = tl.constexpr(INTERPRETED)


def decodes(x: Format, w: Format) -> bool:
    """Return whether a product of these formats is computed here."""
    return is_decoded(x) or is_decoded(w)


def check(x: QuantTensor, w: QuantTensor) -> None:
    """Raise MoEError for formats, scales and sizes that the kernel does not read."""
    for tensor in (x, w):
        tensor.check()
        code_kind(tensor.format)
        scale_kind(tensor.format)
        group = tensor.format.group
        if is_decoded(tensor.format) and group is not None and tensor.shape[-1] % group:
            raise MoEError(
                f"{tensor.shape[-1]} columns of {tensor.format.name} codes end inside a group of "
                f"{group}; pad them with zeros to whole groups"
            )
        if tensor.format.block is not None and tensor.scale is None:
            raise MoEError(f"{tensor.format.name} codes need scales, and got None: pass `scale`")
    if is_decoded(x.format) and scale_kind(x.format) == "sums":
        raise MoEError(
            f"{x.format.name} is a format of weights; quantize activations to another one"
        )


def run(
    x: QuantTensor,
    w: QuantTensor,
    aligned: Aligned,
    y: Tensor,
    *,
    bias: Tensor | None = None,
    tile: Tile | None = None,
) -> None:
    """Write the rows [rows, out] of y that `aligned` names. Shapes are those of `grouped_gemm`."""
    _, out, inner = w.shape
    constants = _constants(x, w)
    group = constants["GROUP"] if constants["W_SCALE"] == "sums" else None
    tile = tile or decoding_tile(aligned.block_m, out, inner, group=group, interpreted=INTERPRETED)
    if group is not None and (tile.block_k > group or group % tile.block_k):
        raise MoEError(f"a step of {tile.block_k} is no part of a group of {group}; choose another")
    blocks = aligned.block_expert.numel()
    if x.codes.device.type == "cpu":  # no synchronisation needed: start no unused programs
        blocks = int(aligned.num_rows) // aligned.block_m
    tiles, rows = triton.cdiv(out, tile.block_n), y.shape[0]
    launch(
        *(_decoding_gemm, (blocks * tiles,), y.device, x.codes.contiguous(), w.codes.contiguous()),
        *(y, _bytes(x), _bytes(w), w.zero_point, x.global_scale, w.global_scale),
        None if bias is None else bias.contiguous(),
        *(aligned.row_ids, aligned.block_expert, aligned.num_rows),
        *(rows, rows // x.codes.shape[0], out, inner),
        **constants,
        EVEN=inner % tile.block_k == 0,
        BLOCK_M=tile.block_m,
        BLOCK_N=tile.block_n,
        BLOCK_K=tile.block_k,
        GROUP_M=tile.group_m,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
    )


def _bytes(tensor: QuantTensor) -> Tensor | None:
    """Return contiguous scales, as bytes unless they are float32."""
    scale = None if tensor.scale is None else tensor.scale.contiguous()
    is_byte = scale is not None and scale.element_size() == 1
    return scale.view(torch.uint8) if scale is not None and is_byte else scale


def _constants(x: QuantTensor, w: QuantTensor) -> dict[str, Any]:
    """Return the compile-time arguments that follow from the formats."""
    exact_in_bf16 = x.format.grid != "model" or x.codes.dtype == torch.bfloat16
    return {
        "X_KIND": code_kind(x.format),
        "W_KIND": code_kind(w.format),
        "X_SCALE": scale_kind(x.format),
        "W_SCALE": scale_kind(w.format),
        "X_GROUP": (x.format.group if is_decoded(x.format) else None) or 1,
        "GROUP": w.format.group or 1,
        "X_PACKED": x.format.packing > 1,
        "W_PACKED": w.format.packing > 1,
        "IN_BF16": exact_in_bf16 and w.format.grid != "model",
    }


@triton.jit
def _product(x, w, total, IN_BF16: tl.constexpr):
    """Return total + x @ w of float32 tiles that are exact in bf16, or need float32."""
    if _INTERPRETED:  # its dot is correct for float32
        return tl.dot(x, w, total)
    elif IN_BF16:
        return tl.dot(x.to(tl.bfloat16), w.to(tl.bfloat16), total)
    else:
        return tl.dot(x, w, total, input_precision="ieee")


@triton.jit
def _spread(scale, ROWS: tl.constexpr, GROUPS: tl.constexpr, GROUP: tl.constexpr):
    """Return scales [ROWS, GROUPS] as [ROWS, GROUPS * GROUP], each repeated."""
    wide = tl.broadcast_to(scale[:, :, None], (ROWS, GROUPS, GROUP))
    return tl.reshape(wide, (ROWS, GROUPS * GROUP))


@triton.jit
def _group_scales(
    scale_ptr, row, step, inner, valid, KIND: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Return float32 [ROWS, BLOCK_K], the scales of a step's columns of these rows."""
    GROUPS: tl.constexpr = BLOCK_K // GROUP
    groups = inner // GROUP
    group = step * GROUPS + tl.arange(0, GROUPS)
    mask = valid[:, None] & (group < groups)[None, :]
    one = 127 if KIND == "e8m0" else 56  # the code of 1: a scale beyond the row multiplies zeros
    raw = tl.load(scale_ptr + row[:, None] * groups + group[None, :], mask=mask, other=one)
    return _spread(scale_values(raw, KIND), ROWS, GROUPS, GROUP)


@triton.jit
def _operand(
    ptr, scale_ptr, row, step, inner, valid, KIND: tl.constexpr, SCALE: tl.constexpr,
    PACKED: tl.constexpr, GROUP: tl.constexpr, EVEN: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Return float32 [ROWS, BLOCK_K], a step's values of these rows, with their group's scales."""
    LOADS: tl.constexpr = BLOCK_K // 2 if PACKED else BLOCK_K
    width = inner // 2 if PACKED else inner
    at = step * LOADS + tl.arange(0, LOADS)
    live = valid[:, None]
    if not EVEN:
        live = live & (at < width)[None, :]
    zero = 0.0 if KIND == "value" else 0
    raw = tl.load(ptr + row[:, None] * width + at[None, :], mask=live, other=zero)
    values = decoded(raw, KIND)
    if not EVEN:  # a code of 0 may be no zero
        inside = step * BLOCK_K + tl.arange(0, BLOCK_K) < inner
        values = tl.where(valid[:, None] & inside[None, :], values, 0.0)
    if SCALE == "e8m0" or SCALE == "e4m3":
        values *= _group_scales(scale_ptr, row, step, inner, valid, SCALE, ROWS, BLOCK_K, GROUP)
    return values


@triton.jit
def _dot_decoded(
    x_ptr, w_ptr, x_scale_ptr, w_scale_ptr, zero_ptr, expert, source, real, column, out, inner,
    X_KIND: tl.constexpr, W_KIND: tl.constexpr, X_SCALE: tl.constexpr, W_SCALE: tl.constexpr,
    X_GROUP: tl.constexpr, GROUP: tl.constexpr, X_PACKED: tl.constexpr, W_PACKED: tl.constexpr,
    IN_BF16: tl.constexpr, EVEN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Return float32 [BLOCK_M, BLOCK_N], the sum over the inner dimension with groups' scales."""
    inside = column < out
    weight_row = expert * out + tl.where(inside, column, 0)
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for step in range(tl.cdiv(inner, BLOCK_K)):
        x = _operand(
            x_ptr, x_scale_ptr, source, step, inner, real,
            X_KIND, X_SCALE, X_PACKED, X_GROUP, EVEN, BLOCK_M, BLOCK_K,
        )  # fmt: skip
        w = _operand(
            w_ptr, w_scale_ptr, weight_row, step, inner, inside,
            W_KIND, W_SCALE, W_PACKED, GROUP, EVEN, BLOCK_N, BLOCK_K,
        )  # fmt: skip
        if W_SCALE == "sums":
            at = weight_row * (inner // GROUP) + step * BLOCK_K // GROUP
            if zero_ptr is not None:
                w -= tl.load(zero_ptr + at, mask=inside, other=0).to(tl.float32)[:, None]
            zeros = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
            scale = tl.load(w_scale_ptr + at, mask=inside, other=0.0)
            total += _product(x, tl.trans(w), zeros, IN_BF16) * scale[None, :]
        else:
            total = _product(x, tl.trans(w), total, IN_BF16)
    return total


@triton.jit(do_not_specialize=("rows", "slots"))
def _decoding_gemm(
    x_ptr, w_ptr, y_ptr, x_scale_ptr, w_scale_ptr, zero_ptr, x_total_ptr, w_total_ptr, bias_ptr,
    row_ids_ptr, block_expert_ptr, num_rows_ptr, rows, slots, out, inner,
    X_KIND: tl.constexpr, W_KIND: tl.constexpr, X_SCALE: tl.constexpr, W_SCALE: tl.constexpr,
    X_GROUP: tl.constexpr, GROUP: tl.constexpr, X_PACKED: tl.constexpr, W_PACKED: tl.constexpr,
    IN_BF16: tl.constexpr, EVEN: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr, GROUP_M: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(out, BLOCK_N)
    block, tile = tile_of(tiles, tl.num_programs(0) // tiles, GROUP_M)
    if block * BLOCK_M >= tl.load(num_rows_ptr):
        return
    expert = tl.load(block_expert_ptr + block).to(tl.int64)
    row = tl.load(row_ids_ptr + block * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    real = row < rows
    source = tl.where(real, row // slots, 0)
    column = tile * BLOCK_N + tl.arange(0, BLOCK_N)
    result = _dot_decoded(
        x_ptr, w_ptr, x_scale_ptr, w_scale_ptr, zero_ptr, expert, source, real, column, out, inner,
        X_KIND, W_KIND, X_SCALE, W_SCALE, X_GROUP, GROUP, X_PACKED, W_PACKED, IN_BF16, EVEN,
        BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip
    if X_SCALE == "tensor":
        result *= tl.load(x_scale_ptr)
    if X_SCALE == "token":
        result *= tl.load(x_scale_ptr + source)[:, None]
    if x_total_ptr is not None:
        result = tl.div_rn(result, tl.zeros_like(result) + tl.load(x_total_ptr))
    if w_total_ptr is not None:
        result = tl.div_rn(result, tl.zeros_like(result) + tl.load(w_total_ptr + expert))
    result = with_bias(result, bias_ptr, expert, column, out)
    y = rounding.to_model_dtype(result, y_ptr.dtype.element_ty)
    live = real[:, None] & (column < out)[None, :]
    tl.store(y_ptr + row[:, None] * out + column[None, :], y, mask=live)
