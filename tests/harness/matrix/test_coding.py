"""Numbers stand for cases: to and fro, with other values, and as ids."""

import itertools

import pytest

from harness.matrix.case import AXES, MoETestConfig
from harness.matrix.coding import coding_of

SIZES = {"m": 1, "n": 1, "k": 1, "num_experts": 1, "top_k": 1, "experts": "torch_loop"}
CASES = [
    MoETestConfig(
        **SIZES | dict(zip(("m", "quant", "tp_size", "seed", "exact"), values, strict=True))
    )
    for values in itertools.product((1, 2, 3), ("none", "fp8_block"), (1, 2), (0, 5), (False, True))
]


@pytest.fixture
def coding():
    return coding_of((), CASES)


def test_a_number_is_a_case_and_back(coding):
    codes = [coding.code_of(case) for case in CASES]
    assert len(set(codes)) == len(CASES)
    assert [coding.case(code) for code in codes] == CASES
    assert [coding.id(code) for code in codes] == [case.id for case in CASES]


@pytest.mark.parametrize("count", [1, 2, 3, 7, len(CASES)])
def test_ids_do_not_depend_on_where_the_number_is_cut(count):
    coding = coding_of((), CASES[:count])
    assert [coding.id(coding.code_of(case)) for case in CASES[:count]] == [
        c.id for c in CASES[:count]
    ]


def test_a_mask_has_the_bits_of_its_axes_and_no_others(coding):
    first, other = CASES[0], CASES[0].replace(seed=5)
    changed = coding.code_of(first) ^ coding.code_of(other)
    assert changed & coding.mask(["seed"]) == changed != 0
    assert coding.mask(set(AXES) - {"seed"}) & changed == 0
    assert coding.mask(["dtype"]) == 0, "it has one value"


def test_one_axis_of_a_number_is_read_and_changed(coding):
    code = coding.code_of(CASES[0])
    changed = coding.changed(code, "quant", "fp8_block")
    assert coding.value(changed, "quant") == "fp8_block"
    assert coding.case(changed) == CASES[0].replace(quant="fp8_block")


@pytest.mark.parametrize("axis", ["m", "quant", "seed", "exact", "dtype", "trace"])
def test_further_values_of_an_axis_move_the_axes_before_it(coding, axis):
    values = range(100, 120) if axis in ("m", "seed") else [f"x{i}" for i in range(9)]
    wider = coding.with_more(axis, values)
    for case in CASES:
        code = coding.code_of(case)
        moved = coding.moved(code, wider, axis, getattr(case, axis))
        assert wider.case(moved) == case
        assert wider.value(coding.moved(code, wider, axis, values[3]), axis) == values[3]


def test_an_axis_with_one_value_keeps_its_bits_for_further_ones(coding):
    one = coding.with_value("experts", "auto").with_value("quant", "none")
    code = one.code_of(CASES[-1].replace(experts="auto", quant="none"))
    wider = one.with_more("quant", ["a", "b"])
    moved = one.moved(code, wider, "quant", "b")
    assert wider.case(moved).replace(quant="none") == one.case(code)
