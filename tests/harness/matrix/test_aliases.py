"""Other names of quantization methods: read everywhere, and written as the row's name."""

import pytest

from harness.matrix.case import MoETestConfig
from harness.matrix.expand import expand
from harness.matrix.load import load
from harness.matrix.model_facts import ModelFacts
from harness.plan.model_selection import parse_quants

PAIRS = [("modelopt_fp8", "fp8_tensor"), ("modelopt_fp4", "nvfp4")]
SIZES = {"m": 4, "n": 64, "k": 64, "num_experts": 4, "top_k": 2, "experts": "torch_loop"}
FILE = """
version: 1
suites:
  one:
    description: one case
    time_limit_s: 60
    blocks:
      - shapes: [[4, 64, 64]]
        num_experts: [4]
        top_k: [2]
        experts: [torch_loop]
        quant: [{name}]
"""


@pytest.mark.parametrize(("alias", "name"), PAIRS)
def test_a_case_is_the_same_under_both_names(alias, name):
    case = MoETestConfig(**SIZES, quant=alias)
    assert case == MoETestConfig(**SIZES, quant=name)
    assert MoETestConfig.from_id(case.id.replace(f"quant:{name}", f"quant:{alias}")) == case
    assert f"quant:{name}" in case.id
    assert case.replace(quant=alias).quant == name
    assert MoETestConfig(**SIZES, shared_quant=alias).shared_quant == name


@pytest.mark.parametrize(("alias", "name"), PAIRS)
def test_a_matrix_file_may_say_it(alias, name, tmp_path):
    file = tmp_path / "matrix.yaml"
    file.write_text(FILE.format(name=alias))
    (point,) = expand(load(file), "one")
    assert point.quant == name


@pytest.mark.parametrize(("alias", "name"), PAIRS)
def test_options_and_models_may_say_it(alias, name):
    assert parse_quants(f"{alias}, {name},none") == (name, "none")
    sizes = {"hidden": 64, "intermediate": 64, "experts": 4, "top_k": 2}
    facts = ModelFacts(checkpoint="x/y", source=["a card"], quant=alias, **sizes)
    assert facts.quant == name
