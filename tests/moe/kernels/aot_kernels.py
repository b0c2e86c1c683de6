"""Started by test_aot_pool and test_aot_compile: kernels that a compiler takes, or does not.

A process of its own, because kernels are either interpreted or compiled in a process. Prints JSON.
"""

import dataclasses
import json
import sys

import torch
import triton
import triton.language as tl

from moe.kernels.aot_compile import request_of, requests_of, source_of
from moe.kernels.aot_pool import compile_all
from moe.kernels.launch import Launch


@triton.jit(do_not_specialize=("rows",))
def good(x_ptr, rows, columns, SIDE: tl.constexpr):
    at = tl.program_id(0) * columns + tl.arange(0, SIDE)
    tl.store(x_ptr + at, tl.load(x_ptr + at, mask=at < rows), mask=at < rows)


@triton.jit
def fnuz(x_ptr, SIDE: tl.constexpr):
    """Multiply fp8 e4m3fnuz: native on gfx942, refused for CUDA, upcast on gfx950."""
    at = tl.arange(0, SIDE)[:, None] * SIDE + tl.arange(0, SIDE)[None, :]
    x = tl.load(x_ptr + at).to(tl.float8e4b8)
    tl.store(x_ptr + at, tl.dot(x, x).to(x_ptr.dtype.element_ty))


@triton.jit
def wide(x_ptr, y_ptr, SIDE: tl.constexpr, DEEP: tl.constexpr):
    """Multiply tiles whose operands need shared memory: SIDE * DEEP * 4 bytes each."""
    row, k = tl.arange(0, SIDE), tl.arange(0, DEEP)
    total = tl.zeros([SIDE, SIDE], tl.float32)
    for step in range(8):
        a = tl.load(x_ptr + step * DEEP + row[:, None] * 8 * DEEP + k[None, :])
        b = tl.load(x_ptr + step * DEEP + row[None, :] * 8 * DEEP + k[:, None])
        total = tl.dot(a, b, total, input_precision="ieee")
    tl.store(y_ptr + row[:, None] * SIDE + row[None, :], total)


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def of_good(x, rows=7, columns=16, **options):
    return Launch(kernel=good, args=(x, rows, columns), options={"SIDE": 64} | options)


def facts():
    """What a launch becomes: by types, values, alignment and backend."""
    x, other = meta(64, 64), meta(64, 64, dtype=torch.bfloat16)
    source, options = source_of(of_good(x, num_warps=8))
    hip, _ = source_of(of_good(x), "hip")
    odd, _ = source_of(of_good(x.view(-1)[1:], columns=1))
    large, _ = source_of(of_good(meta(1 << 15, 1 << 15)), "hip")
    launches = [of_good(x), of_good(x, rows=16), of_good(x, rows=1), of_good(meta(3, 3))]
    return {
        "signature": source.signature,
        "options": options,
        "attrs": {str(k[0]): v for k, v in source.attrs.items()},
        "hip": hip.attrs[(0,)],
        "large": large.attrs[(0,)],
        "odd": [odd.signature, {str(k[0]): v for k, v in odd.attrs.items()}],
        "same": len(requests_of(launches, "sm90")),
        "different": len(requests_of([*launches, of_good(other), of_good(x, columns=17)], "sm90")),
        "keys": len({request_of(of_good(x), chip).key for chip in ("sm90", "sm100", "gfx950")}),
        "label": request_of(of_good(x, num_warps=8), "sm90").label,
    }


def compiled():
    """One JSON line for each kernel and chip."""
    x = meta(64, 64)
    of_fnuz = Launch(kernel=fnuz, args=(x,), options={"SIDE": 32})
    of_wide = Launch(kernel=wide, args=(x, x), options={"SIDE": 64, "DEEP": 256, "num_stages": 2})
    pairs = [(of_good(x), "sm90"), (of_fnuz, "sm90"), (of_fnuz, "gfx950"), (of_fnuz, "gfx942")]
    requests = [request_of(item, chip) for item, chip in (*pairs, (of_wide, "gfx942"))]
    return [dataclasses.asdict(result) for result in compile_all(requests, 2)]


if __name__ == "__main__":
    print(json.dumps({"facts": facts, "compiled": compiled}[sys.argv[1]]()))
