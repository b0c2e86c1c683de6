"""A right member in plain torch, with casts of its own, that rounds wherever it is told."""

from __future__ import annotations

import torch
from torch.nn.functional import silu

E4M3, INT8 = 448.0, 127.0


def rounds(value, place):
    """Cast to bf16 and back where a place says so."""
    return value.bfloat16().float() if place == "model" else value


def scale_of(amax, top, numerics):
    size = torch.clamp(amax, min=numerics.amax_floor) + numerics.amax_epsilon
    if numerics.scale == "divided":
        return size / top
    return size * torch.tensor(1 / top)


def quantized(x, fmt, numerics, static=None):
    """Return the values of the codes of x [T, K]."""
    if fmt == "model":
        return x
    if fmt == "int8_token":
        scale = scale_of(x.abs().amax(dim=1, keepdim=True), INT8, numerics)
        return (x / scale).round().clamp(-INT8, INT8) * scale
    if fmt == "fp8_group":
        parts = x.split(128, dim=1)
        scales = [scale_of(p.abs().amax(dim=1, keepdim=True), E4M3, numerics) for p in parts]
        return torch.cat([e4m3(p / s) * s for p, s in zip(parts, scales, strict=True)], dim=1)
    scale = static if fmt == "fp8_static" else scale_of(x.abs().amax(), E4M3, numerics)
    return e4m3(x / scale) * scale


def e4m3(x):
    return x.clamp(-E4M3, E4M3).to(torch.float8_e4m3fn).float()


def plain_member(x, ids, weights, expert, numerics, fmt="model", static=(None, None), f=silu):
    """Return [T, K] in bf16, as float32. expert(e): the values of w13 and w2; f: on the gate."""
    out = torch.zeros(x.shape)
    weights = rounds(weights, numerics.weight_dtype)
    sort = numerics.weight_on
    for e in ids.unique().tolist():
        w13, w2 = expert(e)
        rows, slots = (ids == e).nonzero(as_tuple=True)
        weight = weights[rows, slots, None]
        own = x[rows].float()
        if sort == "input":
            own = rounds(own * weight, numerics.weighted)
        both = rounds(quantized(own, fmt, numerics, static[0]) @ w13.float().T, numerics.gemm1)
        gate, up = both.chunk(2, dim=1)
        h = rounds(rounds(f(gate), numerics.activated_gate) * up, numerics.activation)
        if sort == "intermediate":
            h = rounds(h * weight, numerics.weighted)
        y = rounds(quantized(h, fmt, numerics, static[1]) @ w2.float().T, numerics.expert)
        if sort == "output":
            y = rounds(y * weight, numerics.weighted)
        out[rows] = rounds(out[rows] + y, numerics.combine)
    return out.bfloat16().float()
