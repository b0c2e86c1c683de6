"""torchao's emulated products of mx formats, where torchao is installed."""

import pytest
import torch

from harness.execute import run_case
from harness.record.result import Verdict
from moe.experts import EXPERTS
from moe.quant import QUANT
from moe.released import TORCHAO
from moe.spec import LayerSpec
from tests.harness.execute_ranks import case, context
from tests.moe.released_subjects import needs

pytestmark = [pytest.mark.usefixtures("one_thread"), needs(TORCHAO)]


@pytest.mark.parametrize("quant", ["mxfp8", "mxfp4_mxfp4"])
def test_it_passes_with_its_stated_roundings(quant):
    sizes = {"m": 9, "n": 64, "k": 96, "num_experts": 4, "top_k": 2}
    point = case(**sizes, all2all="local", experts="torchao_mx", quant=quant)
    assert run_case(point, context()).verdict is Verdict.PASSED


@pytest.mark.parametrize("quant", ["mxfp8", "mxfp4_mxfp4"])
def test_its_codes_are_those_of_this_project(quant):
    """Scales of mxfp8 are rounded up and those of mxfp4 down, also where all columns are 0."""
    scheme = QUANT.row(quant).scheme
    spec = LayerSpec(m=4, hidden=64, intermediate=64, num_experts=1, top_k=1, scheme=scheme)
    method = QUANT.load(quant)()
    member = EXPERTS.load("torchao_mx")(spec, 0, EXPERTS.row("torchao_mx").numerics, method)
    member.format = method.quantize_input(torch.zeros(1, 64).bfloat16(), None).format
    h = (torch.randn(64, 64) * torch.logspace(-8, 8, 64)[:, None]).bfloat16()
    h[3] = 0
    mine, theirs = method.quantize_intermediate(h, None), member.quantized(h)
    rows = torch.arange(64) != 3  # a scale of zeros is free
    assert torch.equal(mine.scale[rows], theirs.scale[rows])
    assert torch.equal(mine.codes.view(torch.uint8), theirs.codes.view(torch.uint8))
