"""A plan puts every point in one place, and each refusal says why."""

import subprocess
import sys

import pytest

from harness.errors import UsageError
from harness.plan.machine import planned_for
from harness.plan.plan import make_plan
from tests.harness.plan.points import CPU, case


def test_a_plain_case_runs():
    plan = make_plan([case()], CPU, time_limit=7.0)
    (job,) = plan.jobs
    assert (job.world_size, job.device, job.transport) == (1, "cpu", "gloo")
    assert job.time_limit == 7.0
    assert 0 < job.memory_share < 0.1
    assert plan.cases == (case(),)
    assert not plan.refused


@pytest.mark.parametrize(
    ("world", "devices", "transport"), [(2, 2, "nccl"), (2, 1, "staged"), (8, 2, "staged")]
)
def test_ranks_that_share_devices_go_through_the_host(world, devices, transport):
    plan = make_plan([case(dp_size=world)], planned_for("cuda_sm90", devices))
    assert (plan.jobs[0].device, plan.jobs[0].transport) == ("cuda", transport)


def test_jobs_are_worlds_and_neighbours_share_kernels():
    points = [
        case(tp_size=tp, experts=experts, quant=quant)
        for tp in (4, 1, 2)
        for quant in ("none", "fp8_tensor")
        for experts in ("triton", "torch_loop")
    ]
    plan = make_plan(points, CPU)
    assert [job.world_size for job in plan.jobs] == [1, 2, 4]
    for job in plan.jobs:
        assert [(c.experts, c.quant) for c in job.cases] == [
            ("torch_loop", "fp8_tensor"),
            ("torch_loop", "none"),
            ("triton", "fp8_tensor"),
            ("triton", "none"),
        ]
    assert set(plan.cases) == set(points)


def test_what_is_done_is_left_out():
    points = [case(seed=seed, tp_size=tp) for seed in range(3) for tp in (1, 2)]
    plan = make_plan(points, CPU)
    done = {p.id for p in points if p.tp_size == 1 or p.seed == 0}
    left = plan.without(done)
    assert [job.world_size for job in left.jobs] == [2]
    assert {c.seed for c in left.cases} == {1, 2}
    assert plan.without(()) == plan


def test_a_path_that_names_nothing_is_a_usage_error():
    with pytest.raises(UsageError, match=r"experts:nowhere.x:Y: cannot load experts 'nowhere.x:Y'"):
        make_plan([case(experts="nowhere.x:Y")], CPU)
    with pytest.raises(UsageError, match="no quantization method is called 'fp9'"):
        make_plan([case(quant="fp9")], CPU)


def test_planning_imports_neither_torch_nor_pydantic():
    code = (
        "import sys, harness.cli, harness.plan.machine as m\n"
        "from harness.matrix.case import MoETestConfig as C\n"
        "from harness.plan.plan import make_plan\n"
        "ids = ['m:8-n:256-k:128-e:8-topk:2-experts:triton']\n"
        "plan = make_plan([C.from_id(i) for i in ids], m.detect())\n"
        "heavy = {'torch', 'triton', 'numpy', 'pydantic', 'rich', 'moe.types'}\n"
        "print(len(plan.cases), sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1 []\n"
