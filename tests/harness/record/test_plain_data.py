"""Dataclasses read from JSON: what fits is taken, anything else is named by its place."""

import dataclasses

import pytest

from harness.record.plain_data import read


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    count: int
    share: float = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Thing:
    name: str
    part: Part
    parts: tuple[Part, ...] = ()
    pair: tuple[int, str] = (0, "")
    words: dict[str, bool] = dataclasses.field(default_factory=dict)


GOOD = {
    "name": "x",
    "part": {"count": 3, "share": 1},
    "parts": [{"count": 1}, {"count": 2}],
    "pair": [1, "a"],
    "words": {"on": True},
}


def test_an_object_is_read_with_all_that_is_in_it():
    thing = Thing(
        name="x",
        part=Part(count=3, share=1),
        parts=(Part(count=1), Part(count=2)),
        pair=(1, "a"),
        words={"on": True},
    )
    assert read(Thing, GOOD) == thing
    assert read(Thing, {**GOOD, "note": [1]}) == thing, "keys that are no field are left out"
    assert read(Thing, {"name": "x", "part": {"count": 3}}) == Thing(name="x", part=Part(count=3))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"name": 3}, "name must be str, not '3'"),
        ({"part": {}}, "part.count is missing"),
        ({"part": {"count": True}}, "part.count must be int, not 'True'"),
        ({"part": {"count": 1.5}}, "part.count must be int, not '1.5'"),
        ({"part": [1]}, r"part must be an object, not '\[1\]'"),
        ({"parts": {"count": 1}}, "parts must be a list, not "),
        ({"parts": [{"count": 1}, {"count": "2"}]}, r"parts\[1\].count must be int, not '2'"),
        ({"pair": [1]}, "pair must have 2 values, not 1"),
        ({"pair": [1, 2]}, r"pair\[1\] must be str, not '2'"),
        ({"words": {"on": 1}}, "words.on must be bool, not '1'"),
        ({"words": []}, "words must be an object, not "),
    ],
)
def test_a_value_that_does_not_fit_is_named_by_its_place(change, error):
    with pytest.raises(ValueError, match=f"^{error}"):
        read(Thing, {**GOOD, **change})
    with pytest.raises(ValueError, match=rf"^things\.x\.{error}"):
        read(Thing, {**GOOD, **change}, "things.x")


def test_what_is_no_object_is_named_by_its_kind():
    with pytest.raises(ValueError, match=r"^Part must be an object, not '\[\]'"):
        read(Part, [])


def test_only_some_of_several_types_may_fit():
    @dataclasses.dataclass(frozen=True)
    class Value:
        value: "float | str | None"

    assert [read(Value, {"value": v}).value for v in (1.5, "nan", None)] == [1.5, "nan", None]
    with pytest.raises(ValueError, match="value must be float"):
        read(Value, {"value": []})
