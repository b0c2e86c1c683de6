"""`select` has four forms; any other text is an error that lists them."""

import pytest

from harness.matrix.select import Select, parse


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("full", Select()),
        ("pairwise", Select(strength=2)),
        ("triples", Select(strength=3)),
        ("random(20, 7)", Select(count=20, seed=7)),
        ("random(5,0)", Select(count=5)),
    ],
)
def test_each_form(text, expected):
    assert parse(text) == expected
    assert parse(text).is_full == (text == "full")


@pytest.mark.parametrize("text", ["pairs", "", "random", "random(0, 1)", "random(3)", "full "])
def test_another_text_is_an_error(text):
    with pytest.raises(ValueError, match=r"must be full, pairwise, triples or random\(n, seed\), "):
        parse(text)


def test_an_almost_random_gets_an_example():
    with pytest.raises(ValueError, match=r"not 'random\(3\)'; for example random\(100, 1\)"):
        parse("random(3)")
