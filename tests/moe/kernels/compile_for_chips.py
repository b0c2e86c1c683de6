"""Started by test_compile_for_chips: compile the experts' kernels for the chips named.

Prints one JSON line a binary. A process of its own, because kernels are either interpreted or
compiled in a process, never both.
"""

import dataclasses
import json
import sys

import torch

from harness.fixtures.dry_run import ShapeGroup
from moe.experts import EXPERTS
from moe.formats import FORMATS
from moe.kernels.aot_compile import CHIPS, compile_launches
from moe.kernels.launch import recording
from moe.kernels.quantize import quantize_rows
from moe.quant import QUANT
from moe.types import Activations, ExpertWeights, Routing
from tests.moe import stack_ranks
from tests.moe.kernels.kernel_cases import layer_spec_of

# Tokens and top-k: a prefill with the largest blocks, and a decode step with the smallest.
# Top-k 1 lets both products of a layer share the rows of a token, too.
CASES = [
    ("none", 4096, 1),
    ("fp8_tensor_dynamic", 4096, 1),
    ("fp8_block", 4096, 1),
    ("int8_channel", 4096, 1),
    ("int8_g32", 4096, 1),
    ("none", 4, 2),
]
_INT8 = ("int8_channel", "int8_token", "int8_g32")
_CODES = {"model": torch.bfloat16, **dict.fromkeys(_INT8, torch.int8)}


def _meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def _blocks(size):
    return -(-size // 128)


def _weights(layer_spec):
    form, (e, k, n) = layer_spec.scheme.weights, (8, layer_spec.hidden, layer_spec.intermediate)
    dtype = _CODES.get(form, torch.float8_e4m3fn)
    shapes = {
        "model": (None, None),
        "fp8_tensor": ((e,), (e,)),
        "fp8_block": ((e, _blocks(2 * n), _blocks(k)), (e, _blocks(k), _blocks(n))),
        "int8_channel": ((e, 2 * n), (e, k)),
        "int8_g32": ((e, 2 * n, k // 32), (e, k, n // 32)),
    }[form]
    scales = [None if shape is None else _meta(*shape) for shape in shapes]
    w13, w2 = _meta(e, 2 * n, k, dtype=dtype), _meta(e, k, n, dtype=dtype)
    return ExpertWeights(
        w13=w13, w2=w2, w13_scale=scales[0], w2_scale=scales[1], format=FORMATS[form]
    )


def _input(layer_spec):
    form, shape = layer_spec.scheme.activations, (layer_spec.m, layer_spec.hidden)
    codes = _meta(*shape, dtype=_CODES.get(form, torch.float8_e4m3fn))
    scales = {
        "model": None,
        "fp8_dynamic": (),
        "fp8_group": (shape[0], _blocks(shape[1])),
        "int8_token": (shape[0], 1),
    }
    scale = scales[form]
    scale = None if scale is None else _meta(*scale)
    return Activations(codes=codes, scale=scale, format=FORMATS[form])


def _launches(quant, tokens, top_k, chip):
    layer_spec = layer_spec_of(quant, m=tokens, hidden=2048, intermediate=768, top_k=top_k)
    row = EXPERTS.row("triton")
    experts = EXPERTS.load("triton")(layer_spec, 0, row.numerics, QUANT.load(quant)())
    experts.prepare_weights(_weights(layer_spec))
    shape = (tokens, top_k)
    routing = Routing(topk_ids=_meta(*shape, dtype=torch.int32), topk_weights=_meta(*shape))
    with recording(CHIPS[chip].shared_bytes) as launches:
        rows = _input(layer_spec)
        experts.apply(rows, routing)
        if quant == "int8_channel":  # the layer's input is quantized before the experts see it
            quantize_rows(_meta(tokens, 2048, dtype=torch.bfloat16), "int8", None)
    return launches


def _exchange_launches(form, chip):
    """Launches of puts to a rank of two, and back."""
    group = ShapeGroup(handle="without processes", size=2, rank=0, counts=[64, 64])
    member = stack_ranks.made("symm_mem", group)
    layer_spec = layer_spec_of("fp8_block" if form == "fp8_group" else "none", m=64, hidden=7168)
    ids = _meta(64, 8, dtype=torch.int32)
    adapters = _meta(64, dtype=torch.int32) if form == "fp8_group" else None
    with recording(CHIPS[chip].shared_bytes) as launches:
        routing = Routing(topk_ids=ids, topk_weights=_meta(64, 8), adapters=adapters)
        got = member.prepare(_input(layer_spec), routing)
        member.finalize(_meta(len(got.x.codes), 7168, dtype=torch.bfloat16), got)
    return launches


def main(chips):
    for chip in chips:
        launches = [item for case in CASES for item in _launches(*case, chip)]
        launches += [x for form in ("model", "fp8_group") for x in _exchange_launches(form, chip)]
        for compiled in compile_launches(launches, chip):
            print(json.dumps(dataclasses.asdict(compiled)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
