"""Arguments that do not fit are errors that name them, in kernels and twins: nothing is misread.

Each call below is right. Whatever its arguments are exchanged for either is an error of ours that
names an argument, or gives what the twin gives.
"""

from functools import partial

import pytest
import torch

from moe.errors import MoEError
from moe.formats import FORMATS
from moe.formats.quant_tensor import QuantTensor
from moe.kernels import (
    activation,
    activation_quant,
    align,
    combine,
    grouped_gemm,
    quantize,
    quantize_groups,
    quantize_weights,
    top_k,
)
from moe.kernels.arguments import check_power_of_two

G = torch.Generator().manual_seed(0)
X = torch.randn(6, 8, generator=G)
IDS = torch.tensor([[0, 1], [-1, 0], [1, 1]], dtype=torch.int32)
WEIGHTS = torch.rand(3, 2, generator=G)
ONE = torch.tensor(0.5)
COUNTS = torch.tensor([1, 2], dtype=torch.int32)


def quantized(name, fmt, **more):
    return (quantize_groups.quantize_groups, quantize_groups.quantize_groups_torch), {
        "x": X.repeat(1, 4),
        "fmt": FORMATS[fmt],
        **more,
    }


# (kernel, twin) and arguments that are right.
CALLS = {
    "combine": (
        (combine.combine, combine.combine_torch),
        {"y": X, "topk_weights": WEIGHTS, "topk_ids": IDS},
    ),
    "activate": ((activation.activate, activation.activate_torch), {"h": X, "ids": IDS}),
    "activate_batched": (
        (activation.activate_batched, activation.activate_batched_torch),
        {"h": X.view(2, 3, 8), "counts": COUNTS},
    ),
    "activate_quantize": (
        (activation_quant.activate_quantize, activation_quant.activate_quantize_torch),
        {"h": X, "ids": IDS, "activation": "silu", "kind": "int8", "group": 4},
    ),
    "activate_quantize_static": (
        (activation_quant.activate_quantize, activation_quant.activate_quantize_torch),
        {"h": X, "ids": IDS, "activation": "silu", "kind": "fp8", "scale": ONE},
    ),
    "quantize_tensor": (
        (quantize.quantize_tensor, quantize.quantize_tensor_torch),
        {"x": X, "scale": ONE, "kind": "fp8"},
    ),
    "quantize_rows": (
        (quantize.quantize_rows, quantize.quantize_rows_torch),
        {"x": X, "kind": "int8", "group": 4},
    ),
    "tensor_scale": (
        (quantize.tensor_scale, quantize.tensor_scale_torch),
        {"x": X, "ids": IDS, "kind": "fp8"},
    ),
    "top_k_routing": (
        (
            partial(top_k.top_k_routing, renormalize=True),
            partial(top_k.top_k_routing_torch, renormalize=True),
        ),
        {
            "logits": X,
            "top_k": 2,
            "scores": "sigmoid",
            "bias": torch.arange(8.0),
            "groups": 4,
            "chosen_groups": 2,
        },
    ),
    "align_tokens": (
        (align.align_tokens, align.align_tokens_torch),
        {"topk_ids": IDS, "num_local_experts": 2, "block_m": 4},
    ),
    "quantize_groups": quantized("quantize_groups", "int8_g32"),
    "quantize_groups_global": quantized("quantize_groups", "nvfp4", total=torch.tensor(3.0)),
    "weights": (
        (quantize_weights.moe_quantize_weights, quantize_weights.moe_quantize_weights_torch),
        {"w": X.view(2, 3, 8), "fmt": FORMATS["fp8_channel"]},
    ),
    "weights_2d": (
        (quantize_weights.moe_quantize_weights_2d, quantize_weights.moe_quantize_weights_2d_torch),
        {"w": X, "fmt": FORMATS["int8_channel"]},
    ),
}


def exchanged_for(value):
    """Yield what else a caller could pass in the place of a value."""
    if isinstance(value, torch.Tensor):
        yield value[None]
        if value.ndim:
            yield from (value[:-1], value[..., :-1], torch.cat([value, value]), value.flatten())
        yield from (value.bool(), value.long(), value.half(), value.double())
        yield value.to(torch.float8_e4m3fn)
    elif isinstance(value, str):
        yield from ("", "nothing", value.upper())
    elif isinstance(value, int):
        yield from (0, -1, 3, 1000, 7)


def tensors_of(result):
    """Return the tensors of a result, to compare them bit for bit."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, tuple):
        return list(result)
    return [v for v in vars(result).values() if isinstance(v, torch.Tensor)]


def outcome(function, arguments):
    """Return the shapes of a result, or the text of our error. Another error is raised."""
    here = torch.get_default_device()
    arguments = {k: v.to(here) if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    try:
        return [(list(t.shape), t.dtype) for t in tensors_of(function(**arguments))]
    except MoEError as error:
        return str(error)


@pytest.mark.parametrize("name", CALLS)
def test_wrong_arguments_are_named_and_never_misread(name):
    functions, right = CALLS[name]
    assert not isinstance(outcome(functions[0], right), str)
    refused = 0
    for argument, value in right.items():
        for other in exchanged_for(value):
            wrong = {**right, argument: other}
            kernel, twin = (outcome(function, wrong) for function in functions)
            shown = getattr(other, "shape", other), getattr(other, "dtype", None)
            assert isinstance(kernel, str) == isinstance(twin, str), (argument, shown, kernel, twin)
            assert kernel == twin, (argument, shown)
            refused += isinstance(kernel, str)
    assert refused


def product(**changes):
    w = QuantTensor(codes=torch.ones(2, 4, 8))
    arguments = {
        "x": QuantTensor(codes=X[:3].to(w.codes.device)),
        "w": w,
        "rows": 6,
        "dtype": torch.float32,
    }
    aligned = align.align_tokens(IDS.to(w.codes.device), 2, 16)
    return grouped_gemm.grouped_gemm(**{**arguments, "aligned": aligned, **changes})


def test_rows_aligned_for_other_experts_are_an_error():
    assert product().shape == (6, 4)
    with pytest.raises(MoEError, match="6 rows for 8 experts, and the product is of 6 rows with 2"):
        product(aligned=align.align_tokens(torch.tensor(IDS.tolist()).int(), 8, 16))
    with pytest.raises(MoEError, match="6 rows for 2 experts, and the product is of 3 rows with 2"):
        product(rows=3)


@pytest.mark.parametrize("value", [0, -4, 12])
def test_a_size_of_tiles_is_a_power_of_two(value):
    check_power_of_two("block_m", 16)
    with pytest.raises(MoEError, match=f"block_m is {value}; it must be a power of two, such as"):
        check_power_of_two("block_m", value)
