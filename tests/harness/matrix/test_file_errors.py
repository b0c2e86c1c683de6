"""What the loaders of both files share; each loader's tests have its whole messages."""

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.matrix import file_errors, yaml_positions


def test_a_file_is_found_here_before_the_repositorys(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    default = Path("configs/models.yaml")
    assert file_errors.find(Path("x"), default) == Path("x")
    assert file_errors.find(None, default) == Path(__file__).parents[3] / default
    default.parent.mkdir()
    default.write_text("")
    assert file_errors.find(None, default) == default
    assert file_errors.find(None, Path("configs/none.yaml")) == Path("configs/none.yaml")


def test_an_unreadable_file_is_named_with_its_kind(tmp_path):
    (tmp_path / "latin").write_bytes(b"\xe9")
    for name in ("none", "latin"):
        with pytest.raises(UsageError, match=f"cannot read the list '.*{name}': "):
            file_errors.read(tmp_path / name, "list")


def test_errors_are_lines_in_the_order_of_the_file_without_repetition():
    located = yaml_positions.load("a:\nb: {c: [1, 2]}\n")
    errors = [
        file_errors.error_at(located, ("b", "c", 1), "second"),
        *file_errors.empty(located) * 2,
        file_errors.error_at(located, ("b",), "first", key=True),
    ]
    assert file_errors.render(Path("f.yaml"), errors) == [
        "f.yaml:1:3: a: has no value; give one or leave the key out",
        "f.yaml:2:1: b: first",
        "f.yaml:2:12: b.c[1]: second",
    ]


@pytest.mark.parametrize(
    ("kind", "ctx", "value", "text"),
    [
        ("extra_forbidden", {}, 1, "unknown key, did you mean 'hidden'?"),
        ("int_type", {}, "3", "must be a whole number, not '3'"),
        ("missing", {}, {}, "lacks the key 'hiden'"),
        ("greater_than_equal", {"ge": 1}, 0, "must be at least 1, not 0"),
        ("greater_than", {"gt": 0.0}, -1, "must be more than 0, not -1"),
        ("literal_error", {"expected": "1"}, 2, "must be 1, not 2"),
        ("value_error", {"error": ValueError("odd")}, 2, "odd"),
        ("something_new", {}, 2, None),
    ],
)
def test_an_error_in_plain_words(kind, ctx, value, text):
    assert file_errors.plain(kind, ("a", "hiden"), ctx, value, ["hidden", "source"]) == text


def test_a_long_value_is_cut():
    assert file_errors.short("short") == "'short'"
    assert file_errors.short(["many"] * 1000).startswith("['many', 'many', ")
    assert len(file_errors.short("x" * 9999)) == file_errors.LONGEST_VALUE + 3


def test_an_unlike_key_gets_the_list_of_known_ones():
    text = file_errors.plain("extra_forbidden", ("zzz",), {}, 1, ["hidden", "source"])
    assert text == "unknown key (known: hidden, source)"
