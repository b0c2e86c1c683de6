"""`ci4` and `ci8` on one to eight GPUs: what runs, how ranks exchange tensors, what is refused."""

import itertools
from pathlib import Path

import pytest

from harness.matrix import load
from harness.plan.machine import planned_for
from harness.plan.plan import make_plan
from moe.layout import Layout
from tests.harness.plan.points import case

BATCHED = "all_to_all_batched"  # the only one here whose experts are not torch_grouped
DEVICES = (1, 2, 4, 8)


@pytest.fixture(scope="module")
def blocks():
    """The first block of each suite: every layout with every way to move tokens, in pairs."""
    config = load.load(Path(__file__).parents[3] / load.DEFAULT)
    return {name: config.suites[name].blocks[0] for name in ("ci4", "ci8")}


def layouts(block):
    return [
        Layout(
            dp_size=given.dp,
            tp_size=given.tp,
            use_ep=given.ep,
            sequence_parallel=given.sp,
            pcp_size=given.pcp,
            moe_tp_size=given.moe_tp,
            expert_dp_size=given.expert_dp,
        )
        for given in block.layouts
    ]


def cases(block):
    """Each layout with each all2all backend, and all else at its first value."""
    for layout, all2all in itertools.product(layouts(block), block.all2all):
        yield case(
            num_experts=16,
            all2all=all2all,
            experts="triton_batched" if all2all == BATCHED else "torch_grouped",
            dp_size=layout.dp_size,
            tp_size=layout.tp_size,
            use_ep=layout.use_ep,
            sequence_parallel=layout.sequence_parallel,
            pcp_size=layout.pcp_size,
            moe_tp_size=layout.moe_tp_size,
            expert_dp_size=layout.expert_dp_size,
        )


def test_each_suite_has_every_kind_of_layout_of_its_world(blocks):
    for name, world in (("ci4", 4), ("ci8", 8)):
        found = layouts(blocks[name])
        assert {layout.world_size for layout in found} == {world}
        half = world // 2
        for wanted in (
            Layout(tp_size=world),
            Layout(dp_size=world, use_ep=True),
            Layout(tp_size=world, use_ep=True, sequence_parallel=True),
            Layout(dp_size=half, tp_size=2),
            Layout(dp_size=half, tp_size=2, use_ep=True),
            Layout(dp_size=2, tp_size=half, use_ep=True, sequence_parallel=True),
            Layout(dp_size=world, use_ep=True, moe_tp_size=2),
            Layout(dp_size=world, use_ep=True, expert_dp_size=2),
        ):
            assert wanted in found, wanted


@pytest.mark.parametrize("devices", DEVICES)
def test_ranks_with_a_gpu_each_use_nccl_and_others_go_through_the_host(blocks, devices):
    wanted = [c for block in blocks.values() for c in cases(block)]
    plan = make_plan(wanted, planned_for("cuda_sm90", devices))
    ways = {job.world_size: job.transport for job in plan.jobs}
    assert ways == {world: "nccl" if world <= devices else "staged" for world in (4, 8)}
    assert {r.reason.code for r in plan.refused} <= {"ranks_share_device"}
    shared = {c for c in wanted if c.all2all == "symm_mem" and c.world_size > devices}
    assert {r.case for r in plan.refused} == shared, "nobody else addresses other ranks' memory"
    assert {*plan.cases, *shared} == set(wanted)


def test_on_a_cpu_nothing_but_speed_is_lost(blocks):
    wanted = [c for block in blocks.values() for c in cases(block)]
    plan = make_plan(wanted, planned_for("cpu"))
    assert [(job.world_size, job.transport) for job in plan.jobs] == [(4, "gloo"), (8, "gloo")]
    assert not plan.refused
