"""YAML with positions: scalars of YAML 1.2, merge keys, and a bound on aliases."""

import itertools

import pytest
import yaml

from harness.matrix import yaml_positions


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("1e-3", 0.001),
        ("0o10", 8),
        ("010", 10),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("2001-01-01", "2001-01-01"),
        ("true", True),
        ("-.5", -0.5),
        ("'1'", "1"),
        ("~", None),
        ("=", "="),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text, value):
    loaded = yaml_positions.load(f"a: {text}\n")
    assert not loaded.errors
    assert (loaded.value, type(loaded.value["a"])) == ({"a": value}, type(value))


MERGED = """\
a: &a {x: 1, y: 2}
b: &b {x: 3, z: 4}
explicit: {x: 9, <<: *a}
several:
  <<: [*b, *a]
nested: {<<: {<<: *b, x: 8}}
quoted: {"<<": 1}
"""


def test_merge_keys_follow_yaml_1_1():
    """An explicit key wins wherever it stands, and of a list the earlier mapping."""
    loaded = yaml_positions.load(MERGED)
    assert not loaded.errors
    assert loaded.value["explicit"] == {"x": 9, "y": 2}
    assert loaded.value["several"] == {"x": 3, "y": 2, "z": 4}
    assert loaded.value["nested"] == {"x": 8, "z": 4}
    assert loaded.value["quoted"] == {"<<": 1}
    assert loaded.where(("several", "z"), key=True) == (2, 14)
    expected = yaml.safe_load(MERGED.rpartition("nested")[0])
    assert {name: loaded.value[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("a: 1\nb:\n  <<: 3\n", 3, "merges a mapping or a list of mappings, and this is neither"),
        ("a: &a {x: 1}\nb: {<<: [*a, [3]]}\n", 2, "merges a mapping or a list of mappings"),
        ("a: &a {<<: *a}\n", 1, "an alias may not contain itself"),
        ("a: &a {<<: [*a]}\n", 1, "an alias may not contain itself"),
        ("a: &a {x: 1}\nb: {<<: *a, x: 2,\n  x: 3}\n", 3, "given twice, first in line 2"),
        ("a: {<<: {x: 1,\n  x: 2}}\n", 2, "this key is given twice, first in line 1"),
        ("a: &a {x: 1}\nb:\n  <<: *a\n  <<: *a\n", 4, "this key is given twice, first in line 3"),
    ],
)
def test_a_merge_that_cannot_be_has_its_line(text, line, message):
    (error,) = yaml_positions.load(text).errors
    assert (error.line, message in error.text) == (line, True), error


@pytest.mark.parametrize("nest", ["[{}]", "{{<<: [{}]}}"])
def test_aliases_of_aliases_are_bounded(nest):
    """Nine of nine of ..., eleven deep: 31 thousand million values in less than a kilobyte."""
    names = "abcdefghijk"
    text = "a: &a {x: 1, y: 2, z: 3}\n"
    for inner, outer in itertools.pairwise(names):
        text += f"{outer}: &{outer} " + nest.format(", ".join([f"*{inner}"] * 9)) + "\n"
    loaded = yaml_positions.load(text)
    (error,) = loaded.errors
    assert "more than 100,000 values" in error.text
    assert (error.line, error.path[0]) in ((6, "f"), (7, "g"))  # where so many are exceeded
    assert loaded.value is None


def test_every_key_and_value_has_its_place():
    loaded = yaml_positions.load("a:\n  - {b: 1, c: [x, yy]}\n")
    assert loaded.where(("a", 0, "c", 1)) == (2, 19)
    assert loaded.where(("a", 0, "c"), key=True) == (2, 12)
    assert loaded.where(("a", 0, "c")) == (2, 15)
    assert loaded.where(("a", 0, "nowhere", 3)) == (2, 5), "the innermost parent's"
    assert loaded.where(()) == (1, 1)


def test_a_value_that_is_left_out_is_listed():
    loaded = yaml_positions.load("a:\nb: ~\nc: 0\n")
    assert loaded.value == {"a": None, "b": None, "c": 0}
    assert loaded.empty == [("a",), ("b",)]


def test_a_syntax_error_is_the_only_one_and_has_its_place():
    loaded = yaml_positions.load("a: 1\na: 2\nb: [1\n")
    (error,) = loaded.errors
    assert (error.line, error.column) == (4, 1)
    assert error.text.startswith("not valid YAML: while parsing a flow sequence")
    assert loaded.value is None


def test_a_path_is_shown_as_one_writes_it():
    path = ("suites", "smoke", "blocks", 0, "quant", 2)
    assert yaml_positions.show(path) == "suites.smoke.blocks[0].quant[2]"
    assert yaml_positions.show(()) == ""
