"""The cases of a suite whose blocks select some points, for a machine."""

import itertools
from dataclasses import replace

import pytest

from harness.matrix.covering.oracle import Oracle
from harness.matrix.covering.space import Space
from harness.matrix.expand import expand
from harness.plan import suites
from harness.plan.decided import DecidingJudge
from harness.plan.machine import planned_for
from harness.plan.plan import make_plan
from harness.plan.work import work
from tests.harness.matrix.covering.blocks import config_of, suite

CPU = planned_for("cpu")
AXES = """shapes: [[4, 128, 256], [8, 192, 64], [5, 64, 131]], top_k: [1, 2, 3],
         experts: [torch_loop, torch_grouped, triton], quant: [none, fp8_block, int8_channel],
         dtype: [bf16, f32], layouts: [{}, {tp: 2}, {dp: 2, ep: true}]"""
PAIRWISE = f"{{select: pairwise, {AXES}}}"


def cases_of(folder, text, name="one", machine=CPU):
    return suites.cases(config_of(folder, text), name, machine)


def pairs(cases):
    """The pairs of (axis, value) that cases have, counted over all fields."""
    fields = ("m", "top_k", "experts", "quant", "dtype", "tp_size", "use_ep")
    values = [[(f, getattr(case, f)) for f in fields] for case in cases]
    return {(a, b) for row in values for a in row for b in row if a < b}


def runnable(cases, machine=CPU):
    return make_plan(cases, machine).cases


def test_pairwise_has_the_pairs_of_all_points_that_can_run(tmp_path):
    cases = cases_of(tmp_path, suite(PAIRWISE))
    full = cases_of(tmp_path, suite(f"{{{AXES}}}"))
    assert pairs(runnable(cases)) == pairs(runnable(full))
    assert set(cases) <= set(full)
    assert len(cases) < 20 < len(runnable(full)) < len(full)


def test_only_values_that_cannot_run_at_all_are_refused_and_each_once(tmp_path):
    block = PAIRWISE.replace("torch_loop, ", "torch_loop, vllm_triton, flashinfer_cutlass, ")
    refused = make_plan(cases_of(tmp_path, suite(block)), CPU).refused
    assert [r.case.experts for r in refused] == ["vllm_triton", "flashinfer_cutlass"]
    assert {r.reason.code for r in refused} == {"platform_lacks_feature"}


def test_where_nothing_can_run_one_case_says_why(tmp_path):
    block = PAIRWISE.replace("torch_loop, torch_grouped, triton", "vllm_triton, vllm_permute")
    plan = make_plan(cases_of(tmp_path, suite(block)), CPU)
    assert plan.cases == ()
    assert [r.reason.code for r in plan.refused] == ["platform_lacks_feature"]


def test_the_machine_decides_what_can_be_combined(tmp_path):
    block = PAIRWISE.replace("torch_loop, ", "torch_loop, vllm_triton, ")
    on_gpu = cases_of(tmp_path, suite(block), machine=planned_for("cuda_sm90"))
    assert "vllm_triton" in {case.experts for case in on_gpu}
    assert make_plan(on_gpu, planned_for("cuda_sm90")).refused == ()


def test_cases_of_earlier_blocks_and_included_suites_count(tmp_path):
    full = suite(f"{{{AXES}}}", "before")
    text = full + suite(PAIRWISE) + "    include: [before]\n"
    assert cases_of(tmp_path, text) == cases_of(tmp_path, full, "before")


def test_a_refused_case_before_covers_nothing(tmp_path):
    small = replace(CPU, memory_bytes=1)
    cases = cases_of(tmp_path, suite(PAIRWISE))
    judge = DecidingJudge(small)
    assert all(judge.refused(case) for case in cases)
    alone = cases_of(tmp_path, suite(PAIRWISE), machine=small)
    assert len(alone) == 1


def test_listed_cases_come_first_and_count(tmp_path):
    case = "m:4-n:128-k:256-e:8-topk:1-experts:torch_loop-quant:int8_channel"
    other = "m:9-n:128-k:256-e:8-topk:1-experts:torch_loop"
    block = PAIRWISE.replace("{select", f"{{cases: ['{case}', '{other}'], select", 1)
    cases = cases_of(tmp_path, suite(block))
    assert [c.id for c in cases[:2]] == [case, other]
    assert pairs(runnable(cases)) >= pairs(runnable(cases_of(tmp_path, suite(f"{{{AXES}}}"))))
    assert len(set(cases)) == len(cases)


def test_a_submodel_has_all_its_triples(tmp_path):
    words = "submodels: [{axes: [experts, quant, layouts], strength: 3}], select"
    cases = runnable(cases_of(tmp_path, suite(PAIRWISE.replace("select", words, 1))))
    full = runnable(cases_of(tmp_path, suite(f"{{{AXES}}}")))

    def triples(some):
        return {(c.experts, c.quant, c.layout) for c in some}

    assert triples(cases) == triples(full)
    assert len(cases) < 30


def test_triples_are_more_than_pairs_and_fewer_than_all(tmp_path):
    sizes = [
        len(runnable(cases_of(tmp_path, suite(PAIRWISE.replace("pairwise", word)))))
        for word in ("pairwise", "triples", "full")
    ]
    assert sizes == sorted(set(sizes))


def test_the_same_text_selects_the_same_cases(tmp_path):
    for block in (PAIRWISE, PAIRWISE.replace("pairwise", "'random(9, 1)'")):
        assert cases_of(tmp_path, suite(block)) == cases_of(tmp_path, suite(block))


def test_random_draws_that_many_cases_that_can_run(tmp_path):
    block = PAIRWISE.replace("pairwise", "'random(25, 1)'")
    cases = cases_of(tmp_path, suite(block))
    assert len(set(cases)) == len(cases) == len(runnable(cases)) == 25
    assert set(cases) <= set(cases_of(tmp_path, suite(f"{{{AXES}}}")))
    assert cases != cases_of(tmp_path, suite(block.replace("(25, 1)", "(25, 2)")))


def test_random_draws_all_cases_if_there_are_no_more(tmp_path):
    axes = "shapes: [[4, 128, 256]], experts: [torch_loop, torch_grouped], dtype: [bf16, f32]"
    cases = cases_of(tmp_path, suite(f"{{select: 'random(9, 0)', {axes}}}"))
    assert len(cases) == len(set(cases)) == 3


def test_random_reaches_the_few_cases_that_can_run(tmp_path):
    """One of 400 points: too few to be drawn by chance within the tries."""
    axes = "shapes: [[4, 128, 256]], experts: [torch_loop], top_k: [1, 2], num_experts: "
    counts = [1, *range(100, 300)]
    text = suite(f"{{select: 'random(3, 0)', {axes} {counts}}}")
    tiny = replace(CPU, memory_bytes=210_000_000)
    cases = cases_of(tmp_path, text, machine=tiny)
    assert [(c.num_experts, c.top_k) for c in cases] == [(1, 1)]


def test_full_blocks_need_no_machine(tmp_path):
    config = config_of(tmp_path, suite(f"{{{AXES}}}"))
    assert expand(config, "one") == suites.cases(config, "one", CPU)


@pytest.mark.parametrize("platform", ["cpu", "cuda_sm90"])
def test_a_block_in_picts_language_allows_only_cases_that_can_run(tmp_path, platform):
    config = config_of(
        tmp_path, suite(PAIRWISE.replace("torch_loop, ", "torch_loop, vllm_triton, "))
    )
    text = suites.pict_of(config.suites["one"].blocks[0], config.defaults, planned_for(platform))
    lines = text.splitlines()
    assert "quant: none, fp8_block, int8_channel" in lines
    assert 'IF [experts] = "torch_grouped" THEN [dtype] <> "f32";' in lines
    assert ('[experts] <> "vllm_triton";' in lines) == (platform == "cpu")


def test_picts_constraints_end_and_say_that_a_row_they_allow_may_be_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(suites, "_ROWS", 3)
    block = config_of(tmp_path, suite(PAIRWISE)).suites["one"].blocks[0]
    text = suites.pict_of(block, config_of(tmp_path, suite(PAIRWISE)).defaults, CPU)
    assert "# of 3 rows drawn at random, only the last" in text
    assert "may still be refused" in text


def test_work_is_that_of_each_case_though_it_is_estimated_for_few(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(suites, "work", lambda *case: asked.append(case) or work(*case))
    block = """{select: pairwise, shapes: [[4, 128, 256], [8, 192, 64]], top_k: [1, 2],
        experts: [torch_loop, triton], quant: [none, w4a8], router_bias: [false, true],
        call: [eager, small_tiles, compile], layouts: [{}, {dp: 2, ep: true}],
        shared_experts: [0, 1], tokens: [even, ragged]}"""
    config = config_of(tmp_path, suite(block))
    space = Space.of(config.suites["one"].blocks[0], config.defaults)
    model = space.model((), lambda _: None)
    estimate = suites._work_of(space, Oracle(model), CPU)
    for row in itertools.product(*model.literals):
        assert estimate(row) == work(space.case(model.row(row)), CPU)
    assert len(asked) < space.size / 3
