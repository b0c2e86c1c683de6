"""What `vllm_triton` passes to vLLM, by stand-ins: no machine here has its kernels."""

from types import SimpleNamespace

import pytest
import torch

from tests.moe.experts.unrun_backends import install, made

pytestmark = pytest.mark.usefixtures("one_thread")
_MOE = "vllm__model_executor__layers__fused_moe"
_QUANT = "vllm__model_executor__layers__quantization"
PACKAGES = ("vllm", "vllm__model_executor", "vllm__model_executor__layers", _MOE, _QUANT)


def nothing(*_arguments, **_options):
    """Stand in for an operator that writes into a tensor, which keeps what it holds."""


@pytest.fixture
def quantizers(monkeypatch):
    """Stand-ins for vLLM are installed; the result lists the calls of its two quantizers."""
    calls = []

    def quantize(h, *arguments, **options):
        calls.append(("input", arguments, options))
        return h.to(torch.float8_e4m3fn), torch.ones(len(h), 1)

    def by_group(h, *arguments, **options):
        calls.append(("groups", arguments, options))
        return h.to(torch.float8_e4m3fn), torch.ones(len(h), h.shape[1] // 128)

    install(monkeypatch, **{name: {} for name in (*PACKAGES, f"{_QUANT}__utils")})
    function = SimpleNamespace(from_str=str)
    config = {"BLOCK_SIZE_M": 16}
    install(
        monkeypatch,
        vllm___custom_ops={"moe_sum": nothing},
        **{
            f"{_MOE}__activation": {"apply_moe_activation": nothing, "MoEActivation": function},
            f"{_MOE}__fused_moe": {
                "invoke_fused_moe_triton_kernel": nothing,
                "try_get_optimal_moe_config": lambda *_a, **_o: config,
            },
            f"{_MOE}__utils": {"moe_kernel_quantize_input": quantize},
            f"{_MOE}__moe_align_block_size": {"moe_align_block_size": lambda *_a, **_o: (0, 0, 0)},
            f"{_QUANT}__utils__fp8_utils": {"per_token_group_quant_fp8": by_group},
        },
    )
    return calls


def test_scales_of_groups_stay_in_float32_whatever_vllm_prefers(quantizers):
    """By itself it rounds them to powers of two where DeepGEMM is at hand: another format."""
    backend, x, routing, _ = made("vllm_triton", "fp8_block")
    backend.apply(x, routing)
    assert quantizers == [("groups", (128,), {"use_ue8m0": False})]


@pytest.mark.parametrize(
    ("quant", "dtype", "per_token", "is_given"),
    [
        ("fp8_tensor", torch.float8_e4m3fn, False, True),
        ("fp8_tensor_dynamic", torch.float8_e4m3fn, False, False),
        ("fp8_channel", torch.float8_e4m3fn, True, False),
        ("int8_channel", torch.int8, True, False),
    ],
)
def test_other_scales_are_left_to_its_quantizer(quantizers, quant, dtype, per_token, is_given):
    backend, x, routing, weights = made("vllm_triton", quant)
    backend.apply(x, routing)
    ((kind, (scale, *arguments), options),) = quantizers
    assert (kind, arguments, options) == ("input", [dtype, per_token], {})
    assert (scale is not None) == is_given
    if is_given:
        assert scale is weights.a2_scale


def test_nothing_is_quantized_without_a_format(quantizers):
    backend, x, routing, _ = made("vllm_triton", "none")
    backend.apply(x, routing)
    assert quantizers == []
