"""The contract of operators that packages register, and of functions that models compile.

An operator's fake result has the shape, strides and dtype of the real one, and it passes
`torch.library.opcheck`. A compiled function has no graph break, returns the same bits, and is
compiled at most twice whatever the number of tokens: for the first one, and then for any. This
project registers no operators. Those of vLLM and SGLang are registered by modules that need their
compiled libraries, and torchao's Triton quantizers need a GPU.
"""

from typing import NamedTuple

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode

from moe.released import SGLANG_EXPERTS, TORCHAO, TORCHTITAN_EXPERTS, TRANSFORMERS_EXPERTS
from moe.routers.sglang_torch.spec import PACKAGE as SGLANG_ROUTERS
from moe.routers.vllm_torch.spec import PACKAGE as VLLM_ROUTERS
from tests.moe.released_subjects import needs

pytestmark = pytest.mark.filterwarnings("ignore")
TOKENS = (5, 9, 17, 33)
BIAS = torch.linspace(0, 0.3, 16)


def int32(*values):
    return torch.tensor(values, dtype=torch.int32)


def grouped(tokens, ends, dtype=torch.float32):
    return torch.randn(tokens, 16, dtype=dtype), torch.randn(3, 16, 24, dtype=dtype), int32(*ends)


def scattered(out, rows):
    return out, torch.randint(0, max(len(out), 1), (rows, 1)).expand(rows, 8), torch.randn(rows, 8)


def is_faithful(operator, arguments):
    """Return whether a fake result has the shape, strides and dtype of the real one."""
    with FakeTensorMode() as mode:
        fake = operator(*(mode.from_tensor(argument) for argument in arguments))
    real = operator(*arguments)
    return (fake.shape, fake.stride(), fake.dtype) == (real.shape, real.stride(), real.dtype)


@needs(TRANSFORMERS_EXPERTS)
@pytest.mark.parametrize(
    "arguments",
    [
        grouped(7, (2, 2, 7)),
        grouped(0, (0, 0, 0)),
        grouped(9, (2, 2, 5), torch.bfloat16),  # the last rows are of other ranks' experts
        (torch.randn(7, 32)[:, ::2], *grouped(7, (2, 2, 7))[1:]),
    ],
)
def test_the_grouped_product_of_transformers(arguments):
    import transformers.integrations.moe  # noqa: F401  # registers it

    operator = torch.ops.transformers.grouped_mm_fallback
    torch.library.opcheck(operator, arguments)
    assert is_faithful(operator, arguments)


@needs(TORCHTITAN_EXPERTS)
@pytest.mark.parametrize(
    "arguments",
    [
        scattered(torch.randn(5, 8), 10),
        scattered(torch.randn(5, 8), 0),
        scattered(torch.randn(0, 8), 0),
        scattered(torch.randn(5, 16)[:, :8], 10),
    ],
)
def test_the_sum_of_torchtitan(arguments):
    import torchtitan.ops.scatter_add  # noqa: F401  # registers it

    operator = torch.ops.torchtitan.deterministic_scatter_add
    torch.library.opcheck(operator, arguments)
    assert is_faithful(operator, arguments)


@needs(TORCHTITAN_EXPERTS)
def test_the_fake_sum_of_torchtitan_has_the_strides_of_its_argument():
    """docs/found.md says this of version 0.3.0: once it fails, mend that page."""
    import torchtitan.ops.scatter_add  # noqa: F401  # registers it

    arguments = scattered(torch.randn(8, 5).T, 10)
    assert not is_faithful(torch.ops.torchtitan.deterministic_scatter_add, arguments)


@needs(TORCHAO)
@pytest.mark.parametrize(("tokens", "ends"), [(5, (2, 5)), (0, (0, 0))])
def test_the_product_of_fp8_blocks_of_torchao(tokens, ends):
    from torchao.prototype.blockwise_fp8_training import grouped_kernels as kernels

    kinds = kernels.BLOCKWISE_1X128_SCALING_TYPE, kernels.BLOCKWISE_128X128_SCALING_TYPE
    of_rows, of_blocks = map(kernels._scaling_type_value, kinds)
    x = torch.randn(tokens, 256).to(torch.float8_e4m3fn)
    w = torch.randn(2, 128, 256).to(torch.float8_e4m3fn).transpose(1, 2)
    scales = torch.rand(tokens, 2), of_rows, torch.rand(2, 2, 1), of_blocks
    arguments = x, w, *scales, int32(*ends), torch.bfloat16
    # `test_schema` multiplies fp8 numbers to see whether arguments change, which torch cannot.
    tests = ("test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    operator = torch.ops.torchao.emulated_blockwise_scaled_grouped_mm
    torch.library.opcheck(operator, arguments, test_utils=tests)


class Dispatched(NamedTuple):
    """Stand in for what SGLang's dispatcher returns."""

    hidden_states: torch.Tensor
    topk_output: tuple


def sglang_experts():
    from types import SimpleNamespace

    from moe.sglang_functions import fused_moe_forward

    config = SimpleNamespace(
        activation="silu",
        apply_router_weight_on_input=False,
        gemm1_alpha=None,
        gemm1_clamp_limit=None,
    )
    w13, w2 = torch.randn(4, 12, 8), torch.randn(4, 8, 6)
    layer = SimpleNamespace(num_experts=4, w13_weight=w13, w2_weight=w2, moe_runner_config=config)
    return lambda *chosen: fused_moe_forward(layer, Dispatched(chosen[0], (*chosen[1:], None)))


def sglang_router(name):
    from moe import sglang_functions

    scale = {"routed_scaling_factor": 2.5, "apply_routed_scaling_factor_on_output": True}
    return {
        "fused": lambda x: sglang_functions.fused_topk(x, x, 4, True, None, "softmax"),
        "biased": lambda x: sglang_functions.biased_topk(x, x, BIAS, 4, True, "sigmoid", **scale),
        "grouped": lambda x: sglang_functions.biased_grouped_topk(
            x, x, BIAS, 4, True, 4, 2, **scale
        ),
    }[name]


def vllm_router(name):
    from moe import vllm_functions

    asked = 4, True, 4, 2, "sigmoid", 2.5, BIAS
    return {
        "grouped": lambda x: vllm_functions.grouped_topk(x, x, *asked),
        "cpu_grouped": lambda x: vllm_functions.cpu_grouped_topk(x, *asked),
        "cpu_softmax": lambda x: vllm_functions.cpu_softmax_topk(x, 4, True),
    }[name]


def torchao_product():
    from torchao.prototype.moe_training.mxfp8_grouped_mm import (
        _emulated_mxfp8_scaled_grouped_mm_2d_3d as multiply,
    )
    from torchao.prototype.mx_formats.mx_tensor import to_mx

    settings = torch.float8_e4m3fn, 32
    w_scale, w = to_mx(torch.randn(2, 32, 64).bfloat16(), *settings)

    def product(x, ends):
        scale, codes = to_mx(x, *settings)
        return multiply(codes, scale, w.transpose(1, 2), w_scale.transpose(1, 2), ends)

    return product


def compilations(function, arguments_of):
    """Return how often a function was compiled; assert that it has no break and the same bits."""
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(function, backend=counter, fullgraph=True)
    for tokens in TOKENS:
        arguments = arguments_of(tokens)
        torch.testing.assert_close(compiled(*arguments), function(*arguments), rtol=0, atol=0)
    torch._dynamo.reset()
    return counter.frame_count


def logits(tokens):
    return (torch.randn(tokens, 16),)


def routed(tokens):
    ids = torch.rand(tokens, 4).topk(2).indices.int()
    return torch.randn(tokens, 8), torch.rand(tokens, 2), ids


@needs(SGLANG_ROUTERS)
@pytest.mark.parametrize("name", ["fused", "biased", "grouped"])
def test_routers_of_sglang_are_compiled_twice(name):
    assert compilations(sglang_router(name), logits) == 2


@needs(SGLANG_EXPERTS)
def test_experts_of_sglang_are_compiled_twice():
    experts = sglang_experts()
    assert compilations(lambda *chosen: experts(*chosen)["hidden_states"], routed) == 2


@needs(VLLM_ROUTERS)
@pytest.mark.parametrize("name", ["grouped", "cpu_grouped", "cpu_softmax"])
def test_routers_of_vllm_are_compiled_twice(name):
    assert compilations(vllm_router(name), logits) == 2


@needs(TORCHAO)
def test_the_product_of_torchao_is_compiled_twice():
    def arguments(tokens):
        return torch.randn(tokens, 64).bfloat16(), int32(2, tokens)

    assert compilations(torchao_product(), arguments) == 2


@needs(TRANSFORMERS_EXPERTS)
@pytest.mark.parametrize("implementation", ["grouped_mm", "batched_mm"])
def test_experts_of_transformers_are_compiled_twice(implementation):
    from transformers.models.qwen3_moe import configuration_qwen3_moe, modeling_qwen3_moe

    sizes = {"moe_intermediate_size": 32, "num_experts": 4, "hidden_size": 8}
    config = configuration_qwen3_moe.Qwen3MoeConfig(**sizes, num_experts_per_tok=2)
    config._experts_implementation = implementation
    experts = modeling_qwen3_moe.Qwen3MoeExperts(config)
    for parameter in experts.parameters():
        torch.nn.init.normal_(parameter, std=0.1).requires_grad_(False)

    def computed(x, weights, ids):
        return experts(x, ids.long(), weights)

    assert compilations(computed, routed) == 2
