"""Points that are judged by their numbers get what the same cases get one by one."""

import random
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.matrix.case import MoETestConfig
from harness.matrix.case_list import case_list
from harness.matrix.load import load
from harness.plan import suites
from harness.plan.coded_judge import CodedJudge
from harness.plan.plan import make_plan
from harness.plan.refusals import Judge
from moe.reason import Reason
from tests.harness.matrix.covering.blocks import config_of, suite
from tests.harness.plan.plain_plans import plan_of, points_of, texts_of
from tests.harness.plan.points import CPU, HOPPERS, case

COMMITTED = load(Path(__file__).parents[3] / "configs/matrix.yaml")
REASON = Reason(code="odd", text="an odd seed")
MACHINES = {"cpu": CPU, "cuda_sm90": HOPPERS}
# Axis -> values that some rule reads: most of the rules of cases, and needs of every family.
VALUES = {
    "shapes": ["[4, 128, 256]", "[8, 96, 64]", "[5, 64, 131]", "[64, 4096, 4096]"],
    "num_experts": [4, 7, 8],
    "top_k": [1, 2, 5],
    "experts": ["torch_loop", "torch_grouped", "triton", "auto", "vllm_triton", "torch_monolithic"],
    "all2all": ["allgather_reducescatter", "all_to_all", "local", "all_to_all_batched"],
    "quant": ["none", "fp8_block", "int8_channel", "fp8_tensor_dynamic", "nvfp4", "modelopt_fp4"],
    "dtype": ["bf16", "f32"],
    "layouts": [
        "{}",
        "{tp: 2}",
        "{dp: 2, ep: true}",
        "{tp: 4}",
        "{tp: 2, ep: true, sp: true}",
        "{dp: 4, ep: true, moe_tp: 2}",
    ],
    "shared_experts": [0, 1],
    "router": ["softmax", "sigmoid", "topk_softmax", "sglang_raw_logits"],
    "renormalize": ["true", "false"],
    "activation": ["silu", "relu2", "swiglu_clamped"],
    "logits": ["spread", "large", "nan", "ties"],
    "router_groups": [1, 2],
    "padding": ["none", "end"],
    "eplb": ["none", "global"],
    "redundant": [0, 1],
    "chunk": [0, 3],
    "exact": ["true", "false"],
    "call": ["eager", "small_tiles", "two_batches", "graph"],
    "skew": ["none", "calls"],
    "seed": [0, 1, 2],
}


def text_of(rng):
    """A suite of two blocks that differ in three axes each, and may share points."""
    blocks = []
    for _ in range(2):
        axes = dict.fromkeys(rng.sample(list(VALUES), 4))
        axes |= dict.fromkeys(["shapes", "num_experts", "top_k", "experts"])
        values = {axis: rng.sample(VALUES[axis], min(2, len(VALUES[axis]))) for axis in axes}
        blocks.append(", ".join(f"{a}: [{', '.join(map(str, v))}]" for a, v in values.items()))
    return suite("\n      - ".join(f"{{{block}}}" for block in blocks))


@pytest.mark.parametrize("seed", range(40))
def test_random_suites_get_the_plan_that_their_cases_get_one_by_one(tmp_path, seed):
    config = config_of(tmp_path, text_of(random.Random(seed)))
    machine = list(MACHINES.values())[seed % 2]
    points = points_of(config, "one")
    fast = suites.cases(config, "one", machine)
    assert [point.id for point in points] == list(fast.ids())
    assert texts_of(make_plan(fast, machine)) == plan_of(points, machine)


@pytest.mark.parametrize("name", ["smoke", "subjects"])
@pytest.mark.parametrize("chip", MACHINES)
def test_suites_of_the_repository_get_the_plan_that_their_cases_get_one_by_one(name, chip):
    points = suites.cases(COMMITTED, name, MACHINES[chip])
    assert texts_of(make_plan(points, MACHINES[chip])) == plan_of(tuple(points), MACHINES[chip])


def test_a_large_suite_is_planned_without_its_cases(tmp_path, monkeypatch):
    axes = "shapes: [[4, 128, 256], [8, 192, 64]], experts: [torch_loop, triton, vllm_triton]"
    axes += ", quant: [none, fp8_block], layouts: [{}, {tp: 2}, {dp: 2, ep: true}]"
    config = config_of(tmp_path, suite(f"{{{axes}, seed: {list(range(500))}}}"))
    made, of_checked = [], MoETestConfig.of_checked
    monkeypatch.setattr(
        MoETestConfig, "of_checked", lambda fields: made.append(1) or of_checked(fields)
    )
    plan = make_plan(suites.cases(config, "one", CPU), CPU)
    assert len(plan.cases) + len(plan.refused) == 18_000
    assert len(set(plan.cases.ids())) == len(plan.cases) == 8_000
    assert len(made) < 8_000, "a sort key is of one case for all with the same seed and kernels"


def test_what_a_rule_reads_is_learned_and_its_answers_hold_for_no_other_values():
    points = case_list(
        [case(logits=logits, seed=s) for s in (0, 1) for logits in ("spread", "nan")]
    )
    judge = CodedJudge(Judge(CPU), points.coding)
    asked = []

    def rule(case):
        asked.append(case.id)
        if case.logits == "nan" and case.seed:
            return REASON
        return None

    answers = judge._answers(rule)
    assert [answers(code) for code in points.codes * 2] == [None, None, None, REASON] * 2
    assert len(asked) == 4, "what it reads of the second case makes the first answer too wide"


def test_an_error_names_the_first_point_that_has_it():
    points = [
        case(seed=1),
        case(seed=2, experts="nowhere.x:Y"),
        case(seed=3, experts="nowhere.x:Z"),
    ]
    with pytest.raises(UsageError, match=r"seed:2: cannot load experts 'nowhere.x:Y'"):
        make_plan(points, CPU)


def test_a_point_of_a_refused_layout_is_not_asked_what_its_groups_would_be():
    odd = case(dp_size=2, use_ep=True, expert_dp_size=3, quant="fp8_block")
    plan = make_plan([odd, case()], CPU)
    assert [refusal.reason.code for refusal in plan.refused] == ["expert_dp_impossible"]
