"""What is called of FlashInfer's TensorRT-LLM kernels is there; routing methods have names."""

import importlib.util

import pytest

from moe import package_source
from moe.platforms import platform
from moe.released_kernels import TRTLLM, TRTLLM_ROUTED, method_exists, method_name
from moe.spec import RoutingMethod
from tests.moe.kernels.kernel_cases import layer_spec_of


def method(**fields):
    return RoutingMethod(**{"top_k": 2} | fields)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "Renormalize"),
        ({"renormalize": False}, "Default"),
        ({"router": "sigmoid"}, "SigmoidRenorm"),
        ({"router": "sigmoid", "renormalize": False}, "Sigmoid"),
        ({"router": "sigmoid", "bias": True}, "DeepSeekV3"),
        ({"router": "sigmoid", "bias": True, "renormalize": False}, None),
        ({"router": "sigmoid", "groups": 4, "chosen_groups": 2}, None),
        ({"scale": 2.0}, None),
        ({"router": "another"}, None),
        ({"weights_input": True, "top_k": 1}, None),
    ],
)
def test_a_method_has_a_name_or_none(fields, name):
    assert method_name(method(**fields)) == name


def test_a_combination_without_a_name_is_refused():
    spec = layer_spec_of("none", router_scale=2.0, renormalize=False)
    reason = method_exists(spec, platform("cuda_sm100"))
    assert reason.code == "routing_option_unsupported"
    assert reason.text == (
        "FlashInfer's kernels have no routing method for softmax with scale, not renormalised"
    )
    assert method_exists(layer_spec_of("none"), platform("cuda_sm100")) is None


@pytest.mark.parametrize("package", [TRTLLM, TRTLLM_ROUTED], ids=["monolithic", "routed"])
def test_the_calls_fit_the_package_s_signatures(package):
    if importlib.util.find_spec("flashinfer") is None:
        pytest.skip("flashinfer is not installed")
    changes = [package_source.change(package_source.parse(call)) for call in package.calls]
    assert changes == [None] * len(package.calls)


def test_every_routing_method_is_one_of_the_package_s():
    enums = pytest.importorskip("flashinfer.tllm_enums", reason="flashinfer is not installed")
    names = enums.RoutingMethodType.__members__
    used = {"Renormalize", "Default", "SigmoidRenorm", "Sigmoid", "DeepSeekV3", "Unspecified"}
    assert used <= set(names)
    assert "Swiglu" in enums.ActivationType.__members__
    assert {"MajorK", "BlockMajorK"} <= set(enums.WeightLayout.__members__)
    assert "DeepSeekFp8" in enums.Fp8QuantizationType.__members__
