"""List the number formats; a folder per grid, with the rows that use it.

In a folder, `spec.py` has the rows and is torch-free; `codec.py` encodes and decodes for the stack
under test; `truth.py` is its independent twin, which only the reference imports.
"""

from __future__ import annotations

from moe.formats.e2m1.spec import ROWS as E2M1
from moe.formats.e4m3.spec import ROWS as E4M3
from moe.formats.e4m3fnuz.spec import ROWS as E4M3FNUZ
from moe.formats.format import Format
from moe.formats.int4.spec import ROWS as INT4
from moe.formats.int8.spec import ROWS as INT8
from moe.formats.model.spec import MODEL
from moe.registry import Registry


class Formats(Registry[Format]):
    """Look up number formats; also by index, `FORMATS[name]`."""

    def __getitem__(self, name: str) -> Format:
        """Return the format called `name`. Raises UnknownMemberError for an unknown name."""
        return self.row(name)


FORMATS = Formats("formats", (MODEL, *E4M3, *E4M3FNUZ, *INT8, *INT4, *E2M1))
