"""Blocks become cases: products, defaults, merged points; and what the committed suites hold."""

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.matrix.expand import expand, origins, with_experts, with_seeds
from harness.matrix.load import load
from harness.plan import suites
from harness.plan.machine import planned_for
from harness.plan.plan import make_plan
from moe.all2all import ALL2ALL
from moe.experts import EXPERTS
from moe.platforms import PLATFORMS
from moe.quant import QUANT

SCHEMES = {"none", "fp8_tensor", "fp8_tensor_dynamic", "fp8_block", "int8_channel"}
COMMITTED = load(Path(__file__).parents[3] / "configs/matrix.yaml")
TEXT = """\
version: 1
defaults: {shapes: [[2, 256, 128]], num_experts: [8], top_k: [2], experts: [torch_loop]}
suites:
  one:
    description: x
    blocks:
      - {top_k: [1, 2], layouts: [{}, {dp: 2, tp: 4, ep: true, sp: true}], seed: [0, 7]}
      - {top_k: [2, 3]}
  every:
    description: x
    blocks:
      - {experts: all, quant: all, all2all: all}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "matrix.yaml"
    path.write_text(TEXT)
    return load(path)


def test_each_case_has_the_place_of_its_first_block(config):
    places = origins(config, "one")
    assert tuple(places) == expand(config, "one")
    of_block = [("suites", "one", "blocks", number) for number in (0, 1)]
    assert [(case.top_k, places[case]) for case in places if case == case.replace(seed=0)] == [
        *[(top_k, of_block[0]) for top_k in (1, 1, 2, 2)],
        (3, of_block[1]),
    ]


def test_a_block_is_a_product_and_shared_points_come_once(config):
    points = expand(config, "one")
    assert len(points) == len(set(points)) == 2 * 2 * 2 + 1
    assert [p.top_k for p in points] == [1, 1, 1, 1, 2, 2, 2, 2, 3]
    wide = [p for p in points if p.world_size == 8]
    assert len(wide) == 4
    assert {(p.dp_size, p.tp_size, p.use_ep, p.sequence_parallel) for p in wide} == {
        (2, 4, True, True)
    }
    assert {p.seed for p in points} == {0, 7}


def test_all_means_every_row(config):
    points = expand(config, "every")
    assert {p.experts for p in points} == set(EXPERTS.rows)
    assert {p.quant for p in points} == set(QUANT.rows)
    assert {p.all2all for p in points} == set(ALL2ALL.rows)


def test_cases_of_included_suites_and_listed_cases_come_first(tmp_path):
    path = tmp_path / "matrix.yaml"
    case = "m:9-n:64-k:64-e:8-topk:2-experts:torch_loop"
    path.write_text(
        f"{TEXT}  more:\n    description: x\n    include: [one]\n    blocks:\n"
        f"      - {{top_k: [2, 4], cases: ['{case}']}}\n"
    )
    config = load(path)
    points = expand(config, "more")
    assert points[:9] == expand(config, "one")
    assert [point.id for point in points[9:]] == [case, points[8].replace(top_k=4).id]


def test_a_block_that_selects_some_points_needs_a_machine(tmp_path):
    path = tmp_path / "matrix.yaml"
    path.write_text(TEXT.replace("- {top_k: [2, 3]}", "- {top_k: [2, 3], select: pairwise}"))
    with pytest.raises(ValueError, match="one selects some points of a block"):
        expand(load(path), "one")


def test_an_unknown_suite_names_those_there_are(config):
    with pytest.raises(UsageError, match=r"no suite is called 'evry', did you mean 'every'\?"):
        expand(config, "evry")
    with pytest.raises(UsageError, match=r"'x' \(known: one, every\)"):
        expand(config, "x")


def test_one_backend_for_all_merges_what_becomes_equal(config):
    points = with_experts(expand(config, "every"), "a.b:C")
    assert len(points) == len(ALL2ALL.rows) * len(QUANT.rows)
    assert {p.experts for p in points} == {"a.b:C"}


def test_seeds_count_up_from_each_points_own(config):
    points = with_seeds(expand(config, "one"), 3)
    assert {p.seed for p in points} == {0, 1, 2, 7, 8, 9}


def of(suite, platform, devices=2):
    machine = planned_for(platform, devices)
    return make_plan(suites.cases(COMMITTED, suite, machine), machine)


def test_smoke_covers_what_it_promises_on_a_cpu_machine():
    plan = of("smoke", "cpu")
    assert len(plan.cases) >= 60
    assert {r.case.quant for r in plan.refused}.isdisjoint(SCHEMES)
    assert {c.world_size for c in plan.cases} == {1, 2, 4, 8}
    layouts = {(c.dp_size, c.tp_size, c.use_ep, c.sequence_parallel) for c in plan.cases}
    assert layouts >= {
        (1, 2, False, False),
        (1, 2, True, False),
        (1, 2, True, True),
        (2, 1, False, False),
        (2, 1, True, False),
        (2, 2, False, False),
        (2, 2, True, False),
        (2, 2, True, True),
    }
    assert {c.quant for c in plan.cases} == {row.name for row in QUANT.built_in}
    assert {c.experts for c in plan.cases} >= {"torch_loop", "torch_grouped", "triton"}
    assert {(c.experts, c.quant) for c in plan.cases} >= {("triton", q) for q in SCHEMES}


def test_ci_covers_what_it_promises_on_two_hoppers():
    plan = of("ci", "cuda_sm90")
    own = [c for job in plan.jobs if job.transport == "nccl" for c in job.cases]
    shared = {job.world_size for job in plan.jobs if job.transport == "staged"}
    assert len(own) >= 200
    assert shared == {4, 8}
    assert {c.experts for c in own} >= {
        "triton",
        "flashinfer_cutlass",
        "torch_grouped",
        "torch_loop",
    }
    assert {(c.m, c.n, c.k) for c in own} >= {(1, 128, 256), (32, 512, 512), (222, 1024, 2048)}
    assert {c.m for c in own} >= {2, 3, 4, 7, 17, 64, 127, 129}
    assert {c.num_experts for c in own} >= {8, 64, 7}
    assert {c.top_k for c in own} == {1, 2, 3, 4, 6, 8}
    assert {c.quant for c in own if c.experts == "flashinfer_cutlass"} >= {"none", "fp8_tensor"}


def sampled(config):
    """The same file with a few cases of each block whose search takes long for every chip."""
    nightly = config.suites["nightly"]
    few = {"select": "random(20, 1)", "submodels": []}
    blocks = [
        block if block.select == "full" else block.model_copy(update=few)
        for block in nightly.blocks
    ]
    changed = nightly.model_copy(update={"blocks": blocks})
    return config.model_copy(update={"suites": config.suites | {"nightly": changed}})


@pytest.mark.parametrize("suite", ["smoke", "ci", "nightly"])
@pytest.mark.parametrize("platform", [row.name for row in PLATFORMS.built_in])
def test_every_suite_has_something_for_every_platform(suite, platform):
    machine = planned_for(platform)
    points = suites.cases(sampled(COMMITTED), suite, machine)
    plan = make_plan(points, machine)
    assert plan.cases
    assert {*plan.cases, *(r.case for r in plan.refused)} == set(points)
    assert len(plan.cases) + len(plan.refused) == len(points)
