"""Fields of a config.json: types, names of one meaning, and one line for each error."""

import pytest

from harness.errors import UsageError
from harness.matrix.hf_fields import Fields, shown


def fields(**values):
    return Fields(path="c.json", values=values)


def test_the_first_name_with_a_value_counts_and_null_is_none():
    given = fields(a=None, b=3, c=3, d=2.5, e=True, f="x", g={"h": 1}, i=[1, 2])
    assert given.whole("z", "a", "b", "c") == 3
    assert (given.number("d"), given.number("b"), given.flag("e")) == (2.5, 3.0, True)
    assert (given.word("f"), given.section("g"), given.sizes("i")) == ("x", {"h": 1}, [1, 2])
    assert given.whole("a") is given.flag("z") is given.word("z") is None
    assert fields(a=0).whole("a", least=0) == 0
    assert fields(a=False).flag("a") is False
    assert given.asked == set("abcdefgiz")


@pytest.mark.parametrize("value", ["8", 8.0, True, 0, -1, 2**31, [8], {"a": 8}, float("nan")])
def test_what_is_no_whole_number_is_an_error(value):
    with pytest.raises(UsageError, match=r"^--model c.json: a must be a whole number from 1 to "):
        fields(a=value).whole("a")


@pytest.mark.parametrize("value", ["2", True, 0, -1.0, float("nan"), float("inf"), 10**400])
def test_what_is_no_positive_number_is_an_error(value):
    with pytest.raises(UsageError, match="a must be a number above 0"):
        fields(a=value).number("a")


@pytest.mark.parametrize("value", ["2", True, 0, -1.0, 0.0009, 1000.5, float("nan"), 10**400])
def test_what_no_axis_of_a_case_can_have_is_no_factor(value):
    assert fields(a=2).factor("a") == 2.0
    with pytest.raises(UsageError, match=r"a must be a number from 0\.001 to 1000, not "):
        fields(a=value).factor("a")


def test_other_types_are_errors():
    with pytest.raises(UsageError, match="a must be true or false, not 1"):
        fields(a=1).flag("a")
    with pytest.raises(UsageError, match="a must be a word, not ''"):
        fields(a="").word("a")
    with pytest.raises(UsageError, match="a must be an object"):
        fields(a=[]).section("a")
    with pytest.raises(UsageError, match=r"a must be a list of whole numbers, not \[1, '2'\]"):
        fields(a=[1, "2"]).sizes("a")


def test_two_names_that_disagree_are_an_error():
    with pytest.raises(UsageError, match=r"c.json: a is 3, but b is 4"):
        fields(a=3, b=4).whole("a", "b")


def test_a_value_that_is_needed_is_asked_for():
    assert fields().needed(0, "has none") == 0
    with pytest.raises(UsageError, match=r"--model c.json: has none"):
        fields().needed(None, "has none")


def test_a_long_value_is_cut_and_stays_one_line():
    assert shown("a\nb") == "'a\\nb'"
    assert len(shown("x" * 10_000)) < 70
