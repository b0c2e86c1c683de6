"""A family's table: rows by name, classes imported on use, rows from outside by entry point.

`Registry("experts", rows)` also reads the entry-point group `moe.experts`, in which each entry
names a `moe.spec.Row` (or a subclass). A name may also be given as `"package.module:Class"`:
the class then carries its own row as the attribute `row`, and is what is loaded.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from moe.errors import MoEError, UnknownMemberError
from moe.spec import Row, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator

R = TypeVar("R", bound=Row)


class Registry(Generic[R]):
    """An immutable, ordered table of rows; the order is the order of preference."""

    def __init__(self, family: str, rows: tuple[R, ...]) -> None:
        self.family = family
        self._own = rows
        self._rows: dict[str, R] | None = None

    @property
    def built_in(self) -> tuple[R, ...]:
        """Return the rows of this project, without those of other packages."""
        return self._own

    @property
    def rows(self) -> dict[str, R]:
        """Rows by name, those of other packages last. Read once, then kept."""
        if self._rows is None:
            found = [
                *self._own,
                *(cast("R", e.load()) for e in entry_points(group=f"moe.{self.family}")),
            ]
            names = [row.name for row in found]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise MoEError(f"two {self.family} rows are called {twice[0]!r}; rename one")
            self._rows = dict(zip(names, found, strict=True))
        return dict(self._rows)

    def __iter__(self) -> Iterator[R]:
        return iter(self.rows.values())

    def row(self, name: str) -> R:
        """The row called `name`, or the one that the class named by an import path carries.

        Such a class is what is loaded, even where its row is another's, inherited or copied.
        Raises UnknownMemberError for a name that is neither.
        """
        if ":" in name:
            return self._carried(name)
        if name not in self.rows:
            raise UnknownMemberError(self.family, name, self.rows)
        return self.rows[name]

    def _carried(self, name: str) -> R:
        """Its target is the class named: a copied or inherited row would have another one run."""
        try:
            return replace(cast("R", resolve(name).row), target=name)
        except Exception as error:  # somebody's module runs here: whatever it raises is its own
            known = isinstance(error, (ImportError, AttributeError))
            why = str(error) if known else f"{type(error).__name__}: {error}"
            why += "; it must name a class with a `row`"
            raise MoEError(f"cannot load {self.family} {name!r}: {why}") from error

    def load(self, name: str) -> Any:
        """The class behind `name`."""
        return resolve(self.row(name).target)
