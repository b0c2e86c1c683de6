"""The families are listed once, and each one's table is where the list says."""

import dataclasses
import importlib
import pkgutil
import subprocess
import sys

import pytest

import moe
from harness.matrix.case import MoETestConfig
from moe import families
from moe.experts import EXPERTS
from moe.layer import Members
from moe.registry import Registry


def test_each_room_with_a_table_is_listed():
    """Formats are no family: a scheme names them, and no case does."""
    rooms = [room.name for room in pkgutil.iter_modules(moe.__path__) if room.ispkg]
    tables = {
        f"moe.{room}:{name}"
        for room in rooms
        for name, value in vars(importlib.import_module(f"moe.{room}")).items()
        if isinstance(value, Registry) and value.family == room
    }
    assert tables == {*families.FAMILIES.values(), "moe.formats:FORMATS"}


def test_a_table_is_asked_for_by_its_family():
    assert families.table("experts") is EXPERTS
    assert dict(families.tables(["experts"])) == {"experts": EXPERTS}
    assert [family for family, _ in families.tables()] == list(families.FAMILIES)
    with pytest.raises(KeyError, match="expert"):
        families.table("expert")


def test_a_case_names_one_member_of_each_family_but_the_platform():
    fields = {field.name for field in dataclasses.fields(MoETestConfig)}
    assert set(families.CASE_FAMILIES) == set(families.FAMILIES) & fields
    assert set(families.FAMILIES) - fields == {"platform"}


def test_a_layer_is_built_from_its_members():
    assert tuple(field.name for field in dataclasses.fields(Members)) == families.MEMBERS
    assert set(families.SERVED) == {*families.MEMBERS, "router"}


def test_no_table_is_imported_before_it_is_asked_for():
    code = (
        "import sys\n"
        "from moe import families\n"
        "rooms = {target.partition(':')[0] for target in families.FAMILIES.values()}\n"
        "print(sorted({*rooms, 'torch'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
