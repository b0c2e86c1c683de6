"""A block is a space of points; rows of its model and cases are each other's images."""

import itertools

import pytest

from harness.errors import CaseError
from harness.matrix.case import MoETestConfig
from harness.matrix.covering.space import Space
from harness.matrix.expand import expand
from harness.matrix.schema import Submodel
from tests.harness.matrix.covering.blocks import config_of, suite

BLOCK = """{shapes: [[4, 128, 256], [8, 64, 64], [4, 128, 256]], experts: [torch_loop],
         dtype: [bf16, f32], layouts: [{}, {tp: 2, ep: true, sp: true}], exact: [false, true]}"""


@pytest.fixture
def config(tmp_path):
    return config_of(tmp_path, suite(BLOCK))


@pytest.fixture
def space(config):
    return Space.of(config.suites["one"].blocks[0], config.defaults)


def accept(_):
    return None


def test_its_points_are_those_of_the_full_product(config, space):
    assert set(space.cases()) == set(expand(config, "one"))
    assert space.size == len(expand(config, "one")) == 16


def test_factors_are_the_keys_with_several_values(space):
    model = space.model((), accept)
    assert dict(zip(model.names, model.values, strict=True)) == {
        "shapes": ("4x128x256", "8x64x64"),
        "dtype": ("bf16", "f32"),
        "layouts": ("one rank", "tp:2+ep+sp"),
        "exact": ("false", "true"),
    }


def test_rows_and_cases_are_each_others_images(space):
    for row in itertools.product(range(2), repeat=4):
        assert space.values_of(space.case(row)) == row


def test_another_value_of_a_factor_is_none(space):
    assert space.values_of(space.case((0, 0, 0, 0)).replace(m=5)) == (None, 0, 0, 0)


@pytest.mark.parametrize("field", [{"top_k": 3}, {"tokens": "idle"}, {"seed": 1}])
def test_a_case_with_another_fixed_field_has_no_value(space, field):
    """Of an axis that the block leaves out, too: its combinations are promised with the default."""
    assert space.values_of(space.case((0, 0, 0, 0)).replace(**field)) == (None,) * 4


def test_a_refusal_names_the_factors_of_its_axes(space):
    axes = frozenset({"k", "tp_size", "use_ep", "num_experts"})
    refused = space.model((), lambda _: ("no", axes)).refuse((0, 0, 0, 0))
    assert (refused.code, refused.factors) == ("no", {0, 2})


def test_the_model_is_asked_with_the_case_of_the_row(space):
    asked = []
    space.model((), asked.append).refuse((1, 1, 1, 0))
    assert asked == [
        MoETestConfig.from_id("m:8-n:64-k:64-e:8-topk:2-experts:torch_loop-dtype:f32-tp:2-ep-sp")
    ]


def test_a_submodel_adds_targets_over_its_own_factors(space):
    submodel = Submodel(axes=["exact", "shapes", "layouts", "quant"], strength=3)
    assert space.of_submodel(submodel) == ((0, 2, 3),)  # quant has one value
    assert space.targets(2, [submodel])[-1] == (0, 2, 3)
    assert len(space.targets(2, [submodel])) == 7


def test_an_axis_is_read_through_the_factor_that_sets_it(space):
    assert space.reading({"k", "tp_size", "seed"}) == (0, 2)  # the seed is the same everywhere
    assert space.reading({"m", "n", "exact"}) == (0, 3)


def test_a_value_that_no_axis_has_is_named(config):
    block = config.suites["one"].blocks[0].model_copy(update={"dtype": ["bf16", "int3"]})
    with pytest.raises(CaseError, match="int3"):
        Space.of(block, config.defaults)
