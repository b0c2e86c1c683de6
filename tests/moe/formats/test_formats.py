"""The table of formats: what it holds, and what it says of unknown names."""

from __future__ import annotations

import subprocess
import sys

import pytest

from moe.errors import UnknownMemberError
from moe.formats import FORMATS


def test_an_unknown_format_raises_and_names_the_known():
    with pytest.raises(UnknownMemberError) as caught:
        FORMATS["fp8_blocks"]
    text = "no formats is called 'fp8_blocks', did you mean 'fp8_block'? (known: "
    assert str(caught.value) == text + ", ".join(sorted(FORMATS.rows)) + ")"


def test_the_table_imports_no_torch():
    code = "import sys, moe.formats as f; f.FORMATS['model']; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
