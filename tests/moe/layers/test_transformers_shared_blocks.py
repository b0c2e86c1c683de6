"""transformers' blocks with shared experts, groups, weighted inputs or biases, on their layouts."""

import pytest

from harness.matrix.case import MoETestConfig
from moe import released
from moe.layers import LAYERS
from moe.layers.transformers_shared_blocks import (
    DeepseekV3Block,
    Glm4MoeBlock,
    GptOssBlock,
    Llama4Block,
)
from tests.moe.released_subjects import errors_of, needs

CASE = MoETestConfig(m=8, n=96, k=72, num_experts=8, top_k=3, experts="own")
BLOCKS = (DeepseekV3Block, Glm4MoeBlock, Llama4Block, GptOssBlock)
GROUPED = {"router": "sigmoid", "router_bias": True, "router_groups": 4, "chosen_groups": 2}
LLAMA4 = {"router": "sigmoid", "top_k": 1, "renormalize": False, "weights_input": True}
GPT_OSS = {"router": "topk_softmax", "activation": "swiglu_clamped", "expert_bias": True}
LAYOUTS = [{}, {"tp_size": 2}, {"tp_size": 2, "use_ep": True}]


def test_each_class_has_the_row_of_the_table():
    for block in BLOCKS:
        row = block.row
        assert row is LAYERS.row(row.name)
        assert row.target == f"{block.__module__}:{block.__qualname__}"


def of_grouped(block, layout, **changes):
    fields = GROUPED | {"router_scale": 2.5, "shared_experts": 1} | layout | changes
    return CASE.replace(layer=block.row.name, **fields)


def cases_of(layout):
    """Yield cases of the blocks that have a plan for the layout."""
    yield of_grouped(DeepseekV3Block, layout)
    yield of_grouped(DeepseekV3Block, layout, shared_experts=0, renormalize=False)
    yield of_grouped(
        DeepseekV3Block, layout, tokens="idle", router_bias=False, router_groups=1, chosen_groups=1
    )
    yield of_grouped(Glm4MoeBlock, layout, shared_experts=2)
    if not layout.get("use_ep"):
        yield CASE.replace(layer=Llama4Block.row.name, **LLAMA4, **layout)
        yield CASE.replace(layer=Llama4Block.row.name, **LLAMA4, **layout, shared_experts=1)
    if layout.get("use_ep") or not layout:
        yield CASE.replace(layer=GptOssBlock.row.name, **GPT_OSS, **layout)
        without = GPT_OSS | {"expert_bias": False}
        yield CASE.replace(layer=GptOssBlock.row.name, **without, **layout)


@needs(released.DEEPSEEK_V3)
@needs(released.GLM4_MOE)
@needs(released.LLAMA4)
@needs(released.GPT_OSS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_block_is_right_up_to_rounding(layout):
    cases = list(cases_of(layout))
    errors = dict(zip((case.id for case in cases), errors_of(*cases), strict=True))
    assert {case: error for case, error in errors.items() if error >= 0.008} == {}
