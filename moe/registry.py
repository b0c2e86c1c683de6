"""Look up the rows of a family by name; import their classes on use.

`Registry("experts", rows)` also reads the entry-point group `moe.experts`, whose entries name a
`moe.spec.MemberSpec` (or an instance of a subclass). A name can also be `"package.module:Class"`:
the class has its row as the attribute `row`, and is the class that is loaded.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from moe.errors import MoEError, UnknownMemberError
from moe.spec import MemberSpec, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

R = TypeVar("R", bound=MemberSpec)


class Registry(Generic[R]):
    """Hold an immutable table of rows, in order of preference."""

    def __init__(
        self, family: str, rows: tuple[R, ...], aliases: Mapping[str, str] | None = None
    ) -> None:
        """Hold `rows`. family: its name in messages and entry points.

        aliases: other names -> the name of a row. They are read wherever a name is, and never
        written.
        """
        self.family = family
        self._own = rows
        self._aliases = dict(aliases or {})
        self._rows: Mapping[str, R] | None = None

    @property
    def built_in(self) -> tuple[R, ...]:
        """Return the rows of this project, without rows of other packages."""
        return self._own

    @property
    def rows(self) -> Mapping[str, R]:
        """Return the rows by name, rows of other packages last. Entry points are read once.

        Raises MoEError if two rows have the same name.
        """
        if self._rows is None:
            rows = [
                *self._own,
                *(cast("R", e.load()) for e in entry_points(group=f"moe.{self.family}")),
            ]
            names = [row.name for row in rows]
            duplicates = sorted({name for name in names if names.count(name) > 1})
            if duplicates:
                raise MoEError(f"two {self.family} rows are called {duplicates[0]!r}; rename one")
            self._rows = MappingProxyType(dict(zip(names, rows, strict=True)))
        return self._rows

    def __iter__(self) -> Iterator[R]:
        return iter(self.rows.values())

    def canonical(self, name: str) -> str:
        """Return the name of the row that `name` is an alias of; any other name as it is."""
        return name if name in self.rows else self._aliases.get(name, name)

    def row(self, name: str) -> R:
        """Return the row of this name or alias, or the attribute `row` of a class `"module:Class"`.

        Raises UnknownMemberError for an unknown name, and MoEError for a class that cannot be
        imported or has no `row`.
        """
        rows = self.rows
        row = rows.get(name)
        if row is not None:
            return row
        if ":" in name:
            return self._carried(name)
        name = self.canonical(name)
        if name not in rows:
            raise UnknownMemberError(self.family, name, rows)
        return rows[name]

    def _carried(self, name: str) -> R:
        """Return the row of a class, with the class as target even if the row was inherited."""
        try:
            cls = resolve(name)
            row = getattr(cls, "row", None)
        except (
            Exception
        ) as error:  # importing runs another package's code, which can raise anything
            known = isinstance(error, (ImportError, AttributeError))
            cause = str(error) if known else f"{type(error).__name__}: {error}"
            rule = _way_out(name, error)
            raise MoEError(f"cannot load {self.family} {name!r}: {cause}; {rule}") from error
        error_text = _row_error(row) or _unimplemented(cls)
        if error_text is not None:
            raise MoEError(f"cannot load {self.family} {name!r}: {error_text}")
        return replace(cast("R", row), target=name)

    def load(self, name: str) -> Any:
        """Import and return the class of the row called `name`."""
        return resolve(self.row(name).target)


def _way_out(name: str, error: Exception) -> str:
    """Return what its author can do about a path that cannot be imported."""
    module, _, attribute = name.partition(":")
    if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
        return "put the folder that contains it on PYTHONPATH"
    if isinstance(error, AttributeError) and f"no attribute {attribute!r}" in str(error):
        return "it must name a class with a `row`"
    return f"it must be importable: python -c 'import {module}' shows where this is raised"


def _row_error(row: object) -> str | None:
    """Return why this is not a row, and what a class needs; None for a row."""
    rule = "it must name a class with a `row`, such as row = MemberSpec(...)"
    if row is None:
        return f"it has no attribute `row`; {rule}"
    if isinstance(row, type) or not isinstance(row, MemberSpec):
        return f"its `row` is a {type(row).__name__}, no row of this family; {rule}"
    return None


def _unimplemented(cls: object) -> str | None:
    """Return which methods a class leaves abstract, so that it cannot be created; None for none."""
    missing = sorted(getattr(cls, "__abstractmethods__", ()))
    if not missing:
        return None
    methods = ", ".join(missing)
    return f"it does not implement {methods}; its base class says what each gets and returns"
