"""Tables: names, classes on use, rows from other packages, and what is said of unknown names."""

import re
import sys
from abc import ABC, abstractmethod
from importlib.metadata import EntryPoint

import pytest

from moe import registry
from moe.errors import MoEError, UnknownMemberError
from moe.registry import Registry
from moe.spec import MemberSpec

FIRST = MemberSpec(name="first", target=f"{__name__}:Class")
SECOND = MemberSpec(name="second", target="no_such_module_at_all:Class")
OUTSIDE = MemberSpec(name="outside", target=f"{__name__}:Class")


class Class:
    row = MemberSpec(name="mine", target=f"{__name__}:Class")


class Copied:
    row = MemberSpec(name="copied", target=f"{__name__}:Class")


class Inherits(Class):
    pass


class Unfinished(Class, ABC):
    @abstractmethod
    def apply(self):
        pass


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(registry, "entry_points", lambda group: ())
    return Registry("experts", (FIRST, SECOND))


def test_rows_keep_their_order_and_load_on_use(table):
    assert [row.name for row in table] == ["first", "second"]
    assert table.row("second") is SECOND
    assert "no_such_module_at_all" not in sys.modules
    assert table.load("first") is Class
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        table.load("second")


def test_an_unknown_name_gets_the_closest_and_all(table):
    with pytest.raises(UnknownMemberError) as error:
        table.row("secnd")
    assert str(error.value) == (
        "no experts backend is called 'secnd', did you mean 'second'? (known: first, second)"
    )


def test_a_class_by_its_path_carries_its_row(table):
    assert table.row(f"{__name__}:Class").name == "mine"
    assert table.load(f"{__name__}:Class") is Class


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("no.such:Thing", "No module named 'no'; put the folder that contains it on PYTHONPATH"),
        ("json.such:Thing", "No module named 'json.such'; put the folder that contains it on"),
        (f"{__name__}:Nothing", "has no attribute 'Nothing'; it must name a class with a `row`"),
        ("json:JSONDecoder", "it has no attribute `row`; it must name a class with a `row`"),
        (f"{__name__}:Unfinished", "it does not implement apply; its base class says what each"),
    ],
)
def test_a_path_that_names_no_member_says_so(table, path, says):
    with pytest.raises(MoEError, match=re.escape(says)):
        table.row(path)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def (", "SyntaxError: invalid syntax (broken_member.py, line 1); it must be importable"),
        ("1 / 0", "ZeroDivisionError: division by zero; it must be importable: python -c 'import "),
        ("import no_such", "No module named 'no_such'; it must be importable: python -c 'import "),
        ("class Class:\n    row = 'x'", "its `row` is a str, no row of this family; it must"),
    ],
)
def test_a_module_that_cannot_be_imported_is_its_author_s_fault(
    table, monkeypatch, tmp_path, source, says
):
    (tmp_path / "broken_member.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MoEError) as error:
        table.row("broken_member:Class")
    assert f"cannot load experts 'broken_member:Class': {says}" in str(error.value)


@pytest.mark.parametrize("cls", [Copied, Inherits])
def test_a_class_by_its_path_is_what_is_loaded_whatever_its_row_says(table, cls):
    assert table.load(f"{__name__}:{cls.__name__}") is cls


def test_rows_of_other_packages_come_last_by_entry_point(monkeypatch):
    groups = []

    def entry_points(group):
        groups.append(group)
        return [EntryPoint(name="x", value=f"{__name__}:OUTSIDE", group=group)]

    monkeypatch.setattr(registry, "entry_points", entry_points)
    table = Registry("experts", (FIRST,))
    assert [row.name for row in table] == ["first", "outside"]
    assert list(table.rows) == ["first", "outside"]
    assert groups == ["moe.experts"]


def test_two_rows_of_one_name_are_refused(monkeypatch):
    monkeypatch.setattr(registry, "entry_points", lambda group: ())
    with pytest.raises(MoEError, match="two experts rows are called 'first'; rename one"):
        Registry("experts", (FIRST, FIRST)).row("first")


def test_rows_cannot_be_changed_from_outside(table):
    with pytest.raises(TypeError):
        table.rows["another"] = table.row("first")
    assert list(table.rows) == ["first", "second"]


def test_an_alias_stands_for_a_row_and_a_row_of_that_name_comes_first():
    row = MemberSpec(name="plain", target="json:loads")
    table = Registry("quant", (row,), aliases={"other": "plain", "gone": "nowhere"})
    assert table.row("other") is row
    assert [table.canonical(name) for name in ("other", "plain", "odd")] == [
        "plain",
        "plain",
        "odd",
    ]
    with pytest.raises(UnknownMemberError, match="no quantization method is called 'nowhere'"):
        table.row("gone")
    named = MemberSpec(name="other", target="json:loads")
    assert Registry("quant", (row, named), aliases={"other": "plain"}).row("other") is named
    assert {"other", "gone"}.isdisjoint(table.rows), "an alias is no member"
