"""The few rows that are worked out again are the reference's when no step is changed."""

from __future__ import annotations

import pytest

from harness.mutants import FEW
from harness.mutants.recompute import redo, redo_parts
from moe.quant import QUANT
from tests.harness.mutants.real_layer import SAME
from tests.harness.mutants.samples import apart, case, scene

LAYOUTS = (
    {},
    {"tp_size": 2},
    {"dp_size": 2},
    {"dp_size": 2, "use_ep": True},
    {"tp_size": 2, "use_ep": True},
    {"dp_size": 2, "tp_size": 2},
    {"dp_size": 2, "tp_size": 2, "use_ep": True, "sequence_parallel": True},
)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("quant", QUANT.rows)
def test_redone_rightly_is_the_right_answer(quant, layout):
    for experts in ("torch_loop", "triton"):  # they declare other numerics
        small = {"m": 3, "k": 128, "num_experts": 2, "top_k": 2}
        here = scene(case(quant=quant, experts=experts, shared_experts=1, **small, **layout))
        few = here.first(FEW)
        assert apart(redo_parts(few), few.answer.parts) < SAME
        assert apart(redo(here), few.answer.out) < SAME
