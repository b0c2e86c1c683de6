"""Lists of cases that are numbers: their parts, and what changes all of them."""

import pytest

from harness.errors import CaseError
from harness.matrix.case import MoETestConfig
from harness.matrix.case_list import CaseList, Product, case_list

SIZES = {"m": 1, "n": 1, "k": 1, "num_experts": 1, "top_k": 1}
SHAPE = [SIZES, SIZES | {"m": 2}]
MEMBERS = [{"experts": "torch_loop"}, {"experts": "triton"}]


def cases(**axes):
    (name, values), *_ = axes.items()
    return [MoETestConfig(**SIZES, **{"experts": "triton", name: value}) for value in values]


def test_a_product_has_every_combination_the_last_choice_first():
    made = CaseList.of([Product([SHAPE, MEMBERS])])
    assert [(case.m, case.experts) for case in made] == [
        *((1, "torch_loop"), (1, "triton"), (2, "torch_loop"), (2, "triton"))
    ]
    assert list(made.ids()) == [case.id for case in made]


def test_points_of_several_parts_come_once_and_an_alias_is_its_row():
    quants = [{"quant": "nvfp4"}, {"quant": "modelopt_fp4"}, {"quant": "fp8_block"}]
    part = Product([SHAPE[:1], MEMBERS[1:], quants])
    made = CaseList.of([cases(quant=["fp8_block", "none"]), part, [made_by_hand()]])
    assert [case.quant for case in made] == ["fp8_block", "none", "nvfp4", "int8_channel"]


def made_by_hand():
    return MoETestConfig(**SIZES, experts="triton", quant="int8_channel")


def test_a_value_that_no_axis_has_is_an_error():
    with pytest.raises(CaseError, match="seed must be at least 0, not -1"):
        Product([SHAPE, MEMBERS, [{"seed": 0}, {"seed": -1}]])
    with pytest.raises(CaseError, match="experts must be a name"):
        case_list(cases(seed=[1])).with_value("experts", "a b")


def test_lists_are_sequences_of_cases():
    made = case_list(cases(seed=[3, 1, 2]))
    assert (len(made), made[1].seed, [case.seed for case in made[1:]]) == (3, 1, [1, 2])
    assert made == cases(seed=[3, 1, 2])
    assert made != cases(seed=[3, 2, 1])
    assert made[:2] != made
    assert case_list(()) == ()
    assert made != 3
    assert case_list(made) is made


def test_one_value_for_all_merges_what_becomes_equal():
    made = CaseList.of([Product([SHAPE, MEMBERS])]).with_value("experts", "auto")
    assert [(case.m, case.experts) for case in made] == [(1, "auto"), (2, "auto")]
    assert [case.quant for case in made.with_value("quant", "modelopt_fp4")] == ["nvfp4"] * 2
    assert len(case_list(()).with_value("quant", "none")) == 0


def test_more_seeds_start_at_the_own_one():
    made = case_list(cases(seed=[5, 0])).with_value("experts", "torch_loop").with_seeds(3)
    assert [(case.experts, case.seed) for case in made] == [
        ("torch_loop", seed) for seed in (5, 6, 7, 0, 1, 2)
    ]
    assert [case.seed for case in case_list(cases(seed=[0, 1])).with_seeds(2)] == [0, 1, 2]


def test_lists_are_narrowed_joined_and_repeated():
    made = case_list(cases(seed=[0, 1, 2]))
    even = made.where(case.seed != 1 for case in made)
    assert [case.seed for case in even] == [0, 2]
    assert [case.seed for case in even.joined(made[1:2])] == [0, 2, 1]
    assert even.joined(case_list(())) is even
    assert case_list(()).joined(even) == even
    assert [case.seed for case in even.repeated(2)] == [0, 2, 0, 2]
    assert even.repeated(2).distinct() == even
    assert made.with_more("seed", [7, 8, 9]) == made


def test_cases_are_counted_by_some_of_their_axes():
    made = CaseList.of([Product([SHAPE, MEMBERS, [{"seed": s} for s in range(5)]])])
    asked = []
    assert made.count_if(lambda case: asked.append(case) or case.m == 2, axes=["m"]) == 10
    assert len(asked) == 2
