"""A model numbers the values of its factors through, and knows which targets imply others."""

from harness.matrix.covering.model import all_targets, maximal
from tests.harness.matrix.covering.models import named

MODEL = named((2, 3, 1), all_targets(3, 2))


def test_literals_number_the_values_of_all_factors():
    assert MODEL.literals == (range(2), range(2, 5), range(5, 6))
    assert MODEL.factor_of == (0, 0, 1, 1, 1, 2)


def test_a_row_and_its_literals_are_each_others_inverse():
    assert MODEL.row((1, 4, 5)) == (1, 2, 0)
    assert MODEL.partial((1, None, 0)) == {0: 1, 2: 5}
    assert MODEL.literals_in({1: 2, 0: 1}) == (1, 4)


def test_combinations_are_those_of_the_values():
    assert list(MODEL.tuples((0, 2))) == [(0, 5), (1, 5)]


def test_the_text_names_factors_and_values():
    assert MODEL.text((1, 4)) == "f0=1, f1=2"


def test_a_strength_above_the_number_of_factors_means_all_of_them():
    assert all_targets(3, 2) == ((0, 1), (0, 2), (1, 2))
    assert all_targets(2, 3) == ((0, 1),)
    assert all_targets(0, 2) == ((),)


def test_targets_that_are_part_of_others_are_left_out():
    assert maximal(((0, 1), (0, 2), (0, 1, 3), (1, 3), (0, 2))) == ((0, 1, 3), (0, 2))
