"""AITER's experts: weights and arguments. No machine here runs the kernel."""

import enum
import importlib.util

import pytest
import torch

from moe import conversions, packages
from moe.experts import EXPERTS
from moe.experts.aiter_fused import ACTIVATIONS
from moe.platforms import platform
from moe.spec import experts_refusal
from tests.moe.experts.unrun_backends import Recorder, install, made, shifted
from tests.moe.kernels.kernel_cases import layer_spec_of

pytestmark = pytest.mark.usefixtures("one_thread")
ROW = EXPERTS.row("aiter")


@pytest.fixture
def kernel(monkeypatch):
    function = Recorder()
    enums = {
        "ActivationType": shifted("ActivationType", "Gelu", "Silu"),
        "QuantType": enum.IntEnum("QuantType", {"per_Token": 70, "No": 71}),
    }
    install(monkeypatch, aiter=enums, aiter__fused_moe={"fused_moe": function})
    return function, enums


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_absent_slots_belong_to_an_expert_that_the_mask_leaves_out(kernel, activation):
    function, enums = kernel
    backend, x, routing, weights = made("aiter", unused=0.4, activation=activation)
    backend.apply(x, routing)
    given = function.options
    absent = routing.topk_ids < 0
    assert bool(absent.any())
    assert given["expert_mask"].tolist() == [1] * 8 + [0]
    assert set(given["topk_ids"][absent].tolist()) == {8}
    assert torch.equal(given["topk_ids"][~absent], routing.topk_ids[~absent])
    assert not bool(given["topk_weight"][absent].any())
    expected = enums["ActivationType"][ACTIVATIONS[activation]]
    assert given["activation"] is expected
    assert given["quant_type"] is enums["QuantType"].No
    assert torch.equal(conversions.untiled(given["w1"]), weights.w13)
    assert torch.equal(conversions.untiled(given["w2"]), weights.w2)


def test_no_tokens_call_nothing(kernel):
    function, _ = kernel
    backend, x, routing, _ = made("aiter")
    none = type(routing)(topk_ids=routing.topk_ids[:0], topk_weights=routing.topk_weights[:0])
    assert backend.apply(x.replace(codes=x.codes[:0]), none).shape == (0, 128)
    assert function.calls == []


def test_it_is_refused_on_other_chips_and_without_its_package():
    reason = experts_refusal(ROW.needs, layer_spec_of("none"), platform("cuda_sm90"))
    assert (reason.code, "needs rocm" in reason.text) == ("platform_lacks_feature", True)
    (package,) = ROW.needs.packages
    if importlib.util.find_spec("aiter") is not None:
        pytest.skip("a module aiter is installed")
    assert packages.refusal(package).code == "package_missing"
    assert "amd-aiter" in packages.refusal(package).text
