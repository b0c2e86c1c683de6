"""transformers' MoE blocks against the reference, on each layout that they take."""

import pytest

from harness.matrix.case import MoETestConfig
from moe import released
from moe.layers import LAYERS
from moe.layers.transformers_blocks import MixtralBlock, OlmoeBlock, Qwen3MoeBlock
from tests.moe.released_subjects import errors_of, needs

CASE = MoETestConfig(m=8, n=96, k=72, num_experts=8, top_k=3, experts="own")
BLOCKS = (MixtralBlock, Qwen3MoeBlock, OlmoeBlock)
LAYOUTS = [{}, {"tp_size": 2}, {"tp_size": 2, "use_ep": True}]


def test_each_class_has_the_row_of_the_table():
    for block in BLOCKS:
        row = block.row
        assert row is LAYERS.row(row.name)
        assert row.target == f"{block.__module__}:{block.__qualname__}"


def cases_of(name, layout):
    case = CASE.replace(layer=name, **layout)
    yield from (case, case.replace(tokens="idle"), case.replace(activation="gelu_tanh"))
    if "no_renorm" in LAYERS.row(name).takes:
        yield case.replace(renormalize=False)


@needs(released.MIXTRAL)
@needs(released.QWEN3_MOE)
@needs(released.OLMOE)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_block_is_right_up_to_rounding(layout):
    cases = [case for block in BLOCKS for case in cases_of(block.row.name, layout)]
    errors = dict(zip((case.id for case in cases), errors_of(*cases), strict=True))
    assert {case: error for case, error in errors.items() if error >= 0.008} == {}
