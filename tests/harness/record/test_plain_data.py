"""Dataclasses read from JSON: what fits is taken, anything else is named by its place."""

import dataclasses

import pytest

from harness.record.plain_data import read


def test_only_some_of_several_types_may_fit():
    @dataclasses.dataclass(frozen=True)
    class Value:
        value: "float | str | None"

    assert [read(Value, {"value": v}).value for v in (1.5, "nan", None)] == [1.5, "nan", None]
    with pytest.raises(ValueError, match="value must be float"):
        read(Value, {"value": []})
