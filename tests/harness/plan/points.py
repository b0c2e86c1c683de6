"""Points and machines for the tests of plans."""

from harness.matrix.case import MoETestConfig
from harness.plan.machine import planned_for
from harness.plan.plan import make_plan

CPU = planned_for("cpu")
HOPPERS = planned_for("cuda_sm90", 2)


def case(**fields):
    plain = {"m": 32, "n": 256, "k": 128, "num_experts": 8, "top_k": 2, "experts": "torch_loop"}
    return MoETestConfig(**{**plain, **fields})


def refusal(point, machine=CPU):
    plan = make_plan([point], machine)
    assert not plan.cases
    (refused,) = plan.refused
    assert refused.case == point
    return refused.reason
