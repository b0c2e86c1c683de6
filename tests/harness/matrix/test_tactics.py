"""`tactic: all` becomes a case for each tactic, and each case is computed as its tactic says."""

import re

import pytest

from harness.execute import run_case
from harness.matrix.expand import expand
from harness.matrix.load import load
from harness.matrix.tactics import each_tactic
from harness.plan.machine import planned_for
from harness.plan.plan import make_plan
from harness.record.result import Verdict
from tests.harness.execute_ranks import case, context

SUITE = """\
version: 1
defaults: {shapes: [[2, 64, 96]], num_experts: [2], top_k: [1], experts: [triton]}
suites:
  tiles:
    description: x
    blocks:
      - {quant: [none, int8_channel], tactic: [default, all, m16n32k128]}
"""


def test_all_stands_for_each_tactic_of_the_backend_with_the_cases_formats(tmp_path):
    path = tmp_path / "matrix.yaml"
    path.write_text(SUITE)
    cases = expand(load(path), "tiles")
    plain = [c.tactic for c in cases if c.quant == "none"]
    codes = [c.tactic for c in cases if c.quant == "int8_channel"]
    assert (len(plain), len(codes)) == (1 + 18, 1 + 12), "m16n32k128 is one of them"
    assert (plain[0], len(set(plain)), len(set(codes))) == ("default", 19, 13)
    assert {"m16n32k64", "m128n128k64"} <= set(plain) - set(codes)
    plan = make_plan(cases, planned_for("cpu"))
    assert (len(plan.cases), plan.refused) == (len(cases), ())


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        (
            {"experts": "torch_loop", "tactic": "all"},
            "torch_loop: has no tactics to choose from (`tactics` of its needs); leave `tactic` ",
        ),
        (
            {"experts": "triton", "tactic": "m8n8k8", "quant": "int8_channel"},
            "triton: has no tactic 'm8n8k8' for this layer; choose from m16n32k128, m16n64k128, ",
        ),
        (
            {"experts": "own", "layer": "tests.harness.outside_layers:Right", "tactic": "x"},
            "Right: has no tactics to choose from",
        ),
    ],
)
def test_what_a_backend_cannot_do_is_refused(fields, text):
    point = case(n=64, k=64, **fields)
    assert each_tactic(point) == (point,)
    (refusal,) = make_plan([point], planned_for("cpu")).refused
    assert refusal.reason.code == "tactic_unsupported"
    assert refusal.reason.text.startswith(text)


def test_a_case_by_its_id_has_one_tactic():
    point = case(n=64, k=64, experts="triton", tactic="all")
    (refusal,) = make_plan([point], planned_for("cpu")).refused
    assert refusal.reason.text == (
        "triton: takes one tactic in a case; `all` in a full block of a suite stands for each"
    )


def test_many_programs_of_a_large_layer_take_the_interpreter_too_long():
    point = case(m=32, n=512, k=512, num_experts=8, experts="triton", tactic="m16n32k64")
    (refusal,) = make_plan([point], planned_for("cpu")).refused
    assert refusal.reason.code == "interpreter_too_slow"
    assert make_plan([point.replace(tactic="default")], planned_for("cpu")).cases


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("experts", "quant", "tactic"),
    [
        ("triton", "none", "m32n32k64"),
        ("triton", "int4_g32", "m16n64k128"),
        ("triton_batched", "none", "m64n32k64"),
    ],
)
def test_a_case_launches_its_products_with_the_tile_that_it_names(experts, quant, tactic):
    fields = {"all2all": "local", "n": 64, "k": 96, "num_experts": 2, "top_k": 1}
    result = run_case(case(**fields, experts=experts, quant=quant, tactic=tactic), context())
    products = [line for line in result.kernels if "_gemm(" in line]
    sizes = {tuple(re.findall(r"BLOCK_[MNK]=(\d+)", line)) for line in products}
    assert result.verdict is Verdict.PASSED
    assert sizes == {tuple(re.findall(r"\d+", tactic))}
