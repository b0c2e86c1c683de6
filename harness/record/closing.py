"""Close an object at the end of a `with` statement, for those that have `close`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType


class ClosedByWith:
    """Derive from this to be closed by a `with` statement, whose target is the object itself."""

    def close(self) -> None:
        """Give up what the object holds."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()
