"""torchtitan's MoE layer against the reference, on each layout: expert parallelism is its own."""

import pytest

from harness.matrix.case import MoETestConfig
from moe import released
from moe.layers import LAYERS
from moe.layers.torchtitan_moe import TorchtitanMoE
from tests.moe.released_subjects import errors_of, needs

NAME = "torchtitan_moe"
CASE = MoETestConfig(m=8, n=96, k=72, num_experts=8, top_k=3, experts="own", layer=NAME)
LAYOUTS = [
    {},
    {"tp_size": 2},
    {"dp_size": 2},
    {"dp_size": 2, "use_ep": True},
    {"tp_size": 2, "use_ep": True},
    {"dp_size": 2, "tp_size": 2, "use_ep": True, "sequence_parallel": True},
]


def test_the_class_has_the_row_of_the_table():
    assert TorchtitanMoE.row is LAYERS.row(NAME)
    assert TorchtitanMoE.row.target == f"{TorchtitanMoE.__module__}:{TorchtitanMoE.__qualname__}"


@needs(released.TORCHTITAN)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_the_layer_is_right_up_to_rounding(layout):
    case = CASE.replace(**layout)
    errors = errors_of(
        case.replace(shared_experts=1),
        case.replace(router="sigmoid", renormalize=False, tokens="ragged"),
        case.replace(tokens="idle", shared_experts=1),
    )
    assert max(errors) < 0.008
