"""Which public names of a module a change reaches, and which changes are more than values."""

import pytest

from harness.plan.module_names import names_made_from_changes

MODULE = '''"""About it."""
from rows import OTHERS, Row
LIMIT = 3
_COMMON = (1, 2)
def _row(name):
    return Row(name, _COMMON)
TABLE = (_row("a"), *OTHERS)
SECOND: tuple = (Row("b"),)
class Kind:
    size = LIMIT
'''
LOOK_UP = "def look_up(name):\n    return SECOND[name]\n"


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("About it", "More about it", set()),
        ("LIMIT = 3", "LIMIT = 3  # at most", set()),
        ('(Row("b"),)', '(Row("b"), Row("c"))', {"SECOND"}),
        ("SECOND: tuple", "THIRD: tuple", {"SECOND", "THIRD"}),
        ("(1, 2)", "(1, 3)", {"TABLE"}),  # by way of a function
        ("Row(name, _COMMON)", "Row(name, ())", {"TABLE"}),
        ("import OTHERS, Row", "import MORE as OTHERS, Row", {"TABLE", "SECOND"}),
        ("class", "def look_up():\n    pass\nclass", {"look_up"}),  # which is no row
        ("LIMIT = 3", "LIMIT = 4", None),  # of a class
        ("size = LIMIT", "size = 5", None),
        ("LIMIT = 3", "LIMIT = 3\nprint(LIMIT)", None),
        ("LIMIT = 3", "LIMIT = 3\nif LIMIT:\n    A = 1", None),
        ("LIMIT = 3", "LIMIT = 3\nTABLE[0].name = 1", None),
    ],
)
def test_names_that_are_made_from_what_differs(old, new, names):
    after = MODULE.replace(old, new)
    assert after != MODULE
    assert names_made_from_changes(MODULE.encode(), after.encode()) == names


def test_a_function_that_reads_what_differs_is_one_of_them():
    before, after = MODULE + LOOK_UP, MODULE.replace('"b"', '"c"') + LOOK_UP
    names = names_made_from_changes(before.encode(), after.encode())
    assert names == {"SECOND", "look_up"}
