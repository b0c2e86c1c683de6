"""Both forms of triton_kernels' result are accepted, of a package made here: none can be installed.

The real package has no release that installs on this project's machines.
"""

import dataclasses
import sys
import types

import pytest
import torch

from moe.errors import MoEError
from moe.reference.routing import RoutingTruth, routing_errors
from moe.routers.triton_kernels.member import TritonKernelsTopK
from moe.routers.triton_kernels.spec import TRITON_KERNELS
from moe.spec import RoutingMethod
from moe.types import TORCH_DTYPE

LOGITS = torch.randn(8, 6, generator=torch.Generator().manual_seed(0)).bfloat16()


@dataclasses.dataclass
class SparseMatrix:
    vals: torch.Tensor
    indx: torch.Tensor
    mask: object = None


FORMS = {
    "tuple": lambda weights, ids: (weights, ids, object()),
    "object": lambda weights, ids: SparseMatrix(vals=weights, indx=ids),
    "list": lambda weights, ids: [weights, ids],
}


@pytest.fixture
def package(monkeypatch):
    """Install a package whose `topk` returns this form."""

    def install(form):
        def topk(x, k, apply_softmax):
            values, ids = x.topk(k, dim=1)
            weights = torch.softmax(values.float(), dim=1).to(x.dtype) if apply_softmax else values
            return FORMS[form](weights, ids.to(torch.int16))

        module = types.ModuleType("triton_kernels.topk")
        module.topk = topk
        monkeypatch.setitem(sys.modules, "triton_kernels", types.ModuleType("triton_kernels"))
        monkeypatch.setitem(sys.modules, "triton_kernels.topk", module)

    return install


@pytest.mark.parametrize("form", ["tuple", "object"])
def test_both_forms_give_the_same_routing(package, form):
    package(form)
    got = TritonKernelsTopK()(LOGITS.float(), 2, renormalize=True)
    assert (got.topk_ids.dtype, got.topk_weights.dtype) == (torch.int32, torch.float32)
    asked = {"renormalize": True, "router": "topk_softmax"}
    assert routing_errors(LOGITS, got.topk_ids, got.topk_weights, **asked) == []


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_its_weights_have_the_dtype_of_the_logits(package, dtype):
    package("tuple")
    logits = torch.randn(32, 8).to(TORCH_DTYPE[dtype])
    got = TritonKernelsTopK()(logits, 3, renormalize=True)
    method = RoutingMethod(router="triton_kernels", top_k=3)
    (numerics,) = TRITON_KERNELS.roundings(method, dtype)
    right = RoutingTruth(method=method, numerics=numerics)
    assert right.errors(logits, got.topk_ids, got.topk_weights) == []
    (text,) = RoutingTruth(method=method).errors(logits, got.topk_ids, got.topk_weights)
    assert "tokens have wrong weights" in text


def test_another_form_is_an_error_that_names_it(package):
    package("list")
    with pytest.raises(MoEError, match=r"returned list; a tuple .* is known: install another"):
        TritonKernelsTopK()(LOGITS, 2, renormalize=True)
