"""One condition of a row: what it reads, the first one that refuses, and ANY."""

import pytest

from moe.need import ANY, Need, fields_read, first_refusal, reads, resolve
from moe.reason import Reason
from tests.moe.test_needs import layer_spec


@reads("m", "hidden")
def too_large(limit, layer_spec):
    if layer_spec.m * layer_spec.hidden <= limit:
        return None
    return Reason(code="too_large", text=f"more than {limit}")


def undeclared(layer_spec):
    return None


def test_a_function_declares_what_it_reads():
    assert fields_read(too_large) == {"m", "hidden"}
    assert fields_read(undeclared) is None, "undeclared: any field"
    need = Need.of(too_large, 100)
    assert need.reads == {"m", "hidden"}
    assert need.refuse(layer_spec(m=1, hidden=100)) is None
    assert need.refuse(layer_spec(m=1, hidden=101)).text == "more than 100"


def test_the_first_need_that_does_not_hold_gives_the_reason():
    needs = [Need.of(too_large, limit) for limit in (1000, 20, 10)]
    assert first_refusal(needs, layer_spec(m=1, hidden=100)).text == "more than 20"
    assert first_refusal(needs, layer_spec(m=1, hidden=10)) is None
    assert first_refusal((), layer_spec()) is None


def test_any_contains_every_value():
    assert "of another package" in ANY
    assert ("a", "b") in ANY
    assert repr(ANY) == "ANY"


def test_a_target_is_imported_by_its_path():
    assert resolve(f"{__name__}:undeclared") is undeclared
    with pytest.raises(AttributeError, match="nothing"):
        resolve(f"{__name__}:nothing")
