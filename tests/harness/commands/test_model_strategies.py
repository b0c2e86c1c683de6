"""What `fuzz --model` draws: the model's layer, with everything else varied; and its shrinking."""

from dataclasses import replace

import pytest

from harness.commands.fuzz_shrink import batch, shrink
from harness.commands.fuzz_space import space_for
from harness.commands.model_strategies import with_model
from harness.errors import NothingSelected
from harness.plan.machine import planned_for
from harness.plan.model_selection import of_model
from harness.plan.plan import make_plan
from tests.harness.plan.test_model_selection import options

CPU = planned_for("cpu")
LAYOUTS = "tp:1,ep:8/1,dp:2"
ASKED = {"layouts": LAYOUTS, "tokens": "1,40", "quant": "none,fp8_block"}


def space_of(model, machine=CPU, experts=None, **fields):
    model = of_model(options(model, **{**ASKED, **fields}))
    return with_model(replace(space_for(machine, experts), batch=40), model)


@pytest.fixture(scope="module")
def space():
    return space_of("olmoe-1b-7b")


@pytest.fixture(scope="module")
def drawn(space):
    return batch(space, 0, 0)


def test_the_layer_is_the_models(drawn):
    assert len(drawn) > 20
    assert {(c.n, c.k, c.top_k, c.renormalize) for c in drawn} == {(1024, 2048, 8, False)}
    assert {(c.num_experts, c.total_experts) for c in drawn} == {(64, 0), (8, 64)}


def test_the_rest_varies_as_far_as_it_was_asked_for(drawn):
    assert {(c.dp_size, c.tp_size, c.use_ep) for c in drawn} == {(1, 1, False), (2, 1, False)}
    assert {c.quant for c in drawn} == {"none", "fp8_block"}
    assert {"torch_loop", "torch_grouped"} <= {c.experts for c in drawn}
    assert len({c.seed for c in drawn}) > 10
    assert len({c.m for c in drawn}) > 5
    assert {c.tokens for c in drawn} == {"even", "ragged", "idle", "alone", "none"}
    assert all(c.m * c.dp_size <= 40 for c in drawn)


def test_what_is_drawn_runs_and_is_drawn_again_by_the_seed(space, drawn):
    assert make_plan(drawn, CPU).refused == ()
    assert batch(space, 0, 0) == drawn
    assert batch(space, 1, 0) != drawn


def test_a_failure_is_shrunk_below_the_models_sizes(space, drawn):
    failing = next(case for case in drawn if case.quant == "fp8_block" and case.m > 2)
    small = shrink(space, 0, 0, failing, lambda case: case.quant == "fp8_block")
    assert (small.m, small.world_size, small.total_experts) == (1, 1, 0)
    assert small.n * small.k < 1024 * 2048
    assert small.quant == "fp8_block"


def test_one_backend_is_the_only_one_drawn():
    space = space_of("olmoe-1b-7b", experts="torch_loop")
    assert {case.experts for case in batch(space, 0, 0)} == {"torch_loop"}


def test_a_model_of_which_nothing_runs_is_told_with_the_reasons():
    reason = "block_straddles_shard"  # 2880 columns are no multiple of 128
    with pytest.raises(NothingSelected, match=rf"nothing of it would run here:\n +\d+  {reason}"):
        space_of("gpt-oss-20b", quant="fp8_block")
