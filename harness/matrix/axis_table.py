"""Generate docs/axes.md from the axes: `python -m harness.matrix.axis_table > docs/axes.md`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.matrix.axis import LARGEST, SMALLEST
from harness.matrix.case import FILE_KEYS
from moe import families

if TYPE_CHECKING:
    from harness.matrix.axis import Axis

_START = """\
# Axes
Every field of a case, as declared in `harness/matrix/main_axes.py`,
[harness/matrix/case_axes.py](../harness/matrix/case_axes.py) and `harness/matrix/case.py`; this
page is made from there by `python -m harness.matrix.axis_table > docs/axes.md`. An id leaves out
what has its default. Outputs of cases that differ only in axes that "agree" are compared.

| in an id | in the matrix file | values | default | outputs | meaning |
|---|---|---|---|---|---|
"""


def page() -> str:
    """Return the page as Markdown, with one table row for each axis."""
    lines = [_row(key, axis) for key, axes in FILE_KEYS.items() for axis in axes]
    return _START + "\n".join(lines) + "\n"


def _row(key: str, axis: Axis) -> str:
    """Return an axis as a row of the table."""
    cells = (
        f"`{axis.token}`" if axis.kind == "bool" else f"`{axis.token}:`",
        f"`{key}`",
        _values(axis),
        "" if axis.required else f"`{str(axis.default).lower()}`",
        "agree" if axis.outputs_agree else "",
        axis.description,
    )
    return f"| {' | '.join(cells)} |"


def _values(axis: Axis) -> str:
    """Describe the allowed values of an axis."""
    if axis.family:
        return f"a row of `moe.{families.table(axis.family).family}`"
    if axis.choices:
        return ", ".join(f"`{word}`" for word in axis.choices)
    return {
        "bool": "`true`, `false`",
        "int": f"{axis.minimum} or more",
        "float": f"{SMALLEST:g} to {LARGEST:g}",
        "str": "a name",
    }[axis.kind]


if __name__ == "__main__":
    print(page(), end="")
