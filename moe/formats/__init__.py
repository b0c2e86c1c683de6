"""The number formats: the table. A folder each, with its rows, its codec and its truth.

`spec.py` has rows, and imports no torch; `codec.py` makes and reads codes for the stack under
test; `truth.py` is its twin, which only the reference imports.
"""

from __future__ import annotations

from moe.formats.e4m3.spec import ROWS as E4M3
from moe.formats.format import Format
from moe.formats.int8.spec import ROWS as INT8
from moe.formats.model.spec import MODEL
from moe.registry import Registry


class Formats(Registry[Format]):
    """`FORMATS[name]`, for a name in a scheme; raises UnknownMemberError for any other."""

    def __getitem__(self, name: str) -> Format:
        return self.row(name)


FORMATS = Formats("formats", (MODEL, *E4M3, *INT8))
