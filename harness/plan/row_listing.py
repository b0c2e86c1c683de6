"""List the rows of all tables of a source tree, as JSON: `python row_listing.py TREE NAME...`.

A process of its own, so that the rows of another commit can be read: this process has its own.
NAME, such as `moe.experts:EXPERTS`, is told to be rows, or a table of them, or not. Torch-free.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def plain(value: Any) -> Any:
    """Return a row's value as lists and texts, equal for equal values in every process."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return [type(value).__name__, *([f.name, plain(getattr(value, f.name))] for f in fields)]
    if isinstance(value, Mapping):
        return sorted(([plain(key), plain(item)] for key, item in value.items()), key=repr)
    if isinstance(value, (frozenset, set)):
        return ["set", *sorted((plain(item) for item in value), key=repr)]
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return repr(value)


def is_rows(value: Any) -> bool:
    """Return whether a value is a row, a table, or several of them."""
    from moe.formats.format import Format
    from moe.registry import Registry
    from moe.spec import MemberSpec

    if isinstance(value, (tuple, list)):
        return bool(value) and all(map(is_rows, value))
    return isinstance(value, (Registry, MemberSpec, Format))


def listing(names: list[str]) -> dict[str, Any]:
    """Return the rows by family and name, what else tables hold, and which names are rows."""
    from moe import families
    from moe.formats import FORMATS

    rows: dict[str, dict[str, Any]] = {}
    settings = {}
    for family, table in families.tables():
        rows[family] = {row.name: plain(row) for row in table.built_in}
        settings[family] = plain(
            {k: v for k, v in vars(table).items() if k not in ("_own", "_rows")}
        )
    for row in families.table("quant").built_in:  # what a format says is part of its methods
        formats = (FORMATS[row.scheme.weights], FORMATS[row.scheme.activations])
        rows["quant"][row.name] = [rows["quant"][row.name], plain(formats)]
    return {"rows": rows, "others": settings, "are_rows": [_are_rows(name) for name in names]}


def _are_rows(name: str) -> bool | None:
    """Return whether a name is rows; None if this tree does not have it."""
    from moe.spec import resolve

    try:
        return is_rows(resolve(name))
    except AttributeError:
        return None


def main(tree: str, *names: str) -> None:
    """Print the listing of a tree, and import nothing else of this project."""
    sys.path[0] = tree  # was this file's own folder
    import moe

    if not Path(str(moe.__file__)).is_relative_to(tree):
        raise SystemExit(f"moe was imported from {moe.__file__}, not from {tree}")
    print(json.dumps(listing(list(names))))


if __name__ == "__main__":
    main(*sys.argv[1:])
