"""The measure of work: ranks and interpreted kernels cost, where there is an interpreter."""

from harness.plan.machine import planned_for
from harness.plan.work import work
from tests.harness.plan.points import case


def test_ranks_and_interpreted_kernels_cost():
    cpu = planned_for("cpu")
    plain, two = case(experts="torch_loop"), case(experts="torch_loop", dp_size=2)
    assert work(plain, cpu) < work(two, cpu) < work(two.replace(experts="triton"), cpu)
    assert work(plain, cpu) < work(plain.replace(experts="triton"), cpu)


def test_small_tiles_and_compiled_layers_cost_more():
    cpu = planned_for("cpu")
    kernels = case(experts="triton", n=256, k=256)
    assert work(kernels, cpu) < work(kernels.replace(call="small_tiles"), cpu)
    torch_loop = case(experts="torch_loop")
    assert work(torch_loop, cpu) < work(torch_loop.replace(call="compile"), cpu)


def test_where_kernels_are_compiled_only_ranks_count():
    chip = planned_for("cuda_sm90")
    works = {work(case(experts=name), chip) for name in ("torch_loop", "triton", "auto")}
    assert len(works) == 1
    assert work(case(experts="triton", dp_size=2), chip) > works.pop()
