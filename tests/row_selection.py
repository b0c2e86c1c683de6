"""Which tests run again with one more row in every table (`make test-extra-rows`).

What such a run shows: a test must not depend on how many rows there are. So left out are tests that
look at no table, and, of a test for each of this project's rows, all but the first: that they pass
was shown without the extra rows, and one of them shows that the test stands further rows. Tests of
the extra rows themselves run.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from moe.families import tables
from moe.formats import FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pytest

EXTRA = Path(__file__).parent / "extra_rows"
# What looks at no table, by folder or file -> why it does not.
WITHOUT_ROWS = {
    "tests/harness/engine": "processes and messages; what they execute calls no member",
    "tests/harness/record": "results and events that the tests make up",
    "tests/harness/report": "texts of results that the tests make up",
    "tests/mistakes": "planted in rows of this project, in cases that name them",
    "tests/test_extension.py": "copies extra rows to folders of its own, and runs with these alone",
    "tests/test_packaging.py": "the Makefile and the set-up",
    "tests/test_words.py": "reads sources",
}
_TOKEN = re.compile(r"[\w.]+")


def with_extra_rows() -> bool:
    """Whether this process has the extra rows, by PYTHONPATH."""
    return str(EXTRA) in sys.path


def row_names() -> tuple[set[str], set[str]]:
    """The names of this project's rows, and those of other packages."""
    every = [table for _, table in tables()] + [FORMATS]
    own = {row.name for table in every for row in table.built_in}
    return own, {name for table in every for name in table.rows} - own


def left_out(ids: Iterable[str], own: set[str], extra: set[str]) -> Iterator[str]:
    """Yield the ids of tests that need not run again."""
    seen: set[str] = set()
    for test in ids:
        function, _, parameters = test.partition("[")
        words = set(_TOKEN.findall(parameters))
        if any(function.startswith((f"{path}/", f"{path}::")) for path in WITHOUT_ROWS):
            yield test
        elif words & own and not words & extra:
            if function in seen:
                yield test
            seen.add(function)


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect them, as `-k` would."""
    dropped = set(left_out([item.nodeid for item in items], *row_names()))
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in dropped])
    items[:] = [item for item in items if item.nodeid not in dropped]
