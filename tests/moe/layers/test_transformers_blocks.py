"""transformers' MoE blocks against the reference, on each layout that they take."""

import pytest

from harness.matrix.case import MoETestConfig
from moe import released
from moe.layers import LAYERS
from moe.layers.transformers_blocks import MixtralBlock, OlmoeBlock, Qwen3MoeBlock
from tests.moe.released_subjects import errors_of, needs

CASE = MoETestConfig(m=8, n=96, k=72, num_experts=8, top_k=3, experts="own")
BLOCKS = [
    pytest.param("transformers_mixtral", marks=needs(released.MIXTRAL)),
    pytest.param("transformers_qwen3_moe", marks=needs(released.QWEN3_MOE)),
    pytest.param("transformers_olmoe", marks=needs(released.OLMOE)),
]
LAYOUTS = [{}, {"tp_size": 2}, {"tp_size": 2, "use_ep": True}]


def test_each_class_has_the_row_of_the_table():
    for block in (MixtralBlock, OlmoeBlock, Qwen3MoeBlock):
        row = block.row
        assert row is LAYERS.row(row.name)
        assert row.target == f"{block.__module__}:{block.__qualname__}"


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_block_is_right_up_to_rounding(name, layout):
    case = CASE.replace(layer=name, **layout)
    cases = [case, case.replace(tokens="idle"), case.replace(activation="gelu_tanh")]
    if "no_renorm" in LAYERS.row(name).takes:
        cases.append(case.replace(renormalize=False))
    assert max(errors_of(*cases)) < 0.008
