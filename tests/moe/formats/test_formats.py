"""The table of formats: what it holds, and what it says of unknown names."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from moe.errors import UnknownMemberError
from moe.formats import FORMATS
from moe.formats.codec import Codec
from moe.reference.formats import on_grid
from moe.spec import resolve


def test_an_unknown_format_raises_and_names_the_known():
    with pytest.raises(UnknownMemberError) as caught:
        FORMATS["fp8_blocks"]
    text = "no format is called 'fp8_blocks', did you mean 'fp8_block'? (known: "
    assert str(caught.value).startswith(text)


def test_the_table_imports_no_torch():
    code = "import sys, moe.formats as f; f.FORMATS['model']; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("row", list(FORMATS), ids=lambda row: row.name)
def test_a_format_s_codec_and_truth_know_one_grid(row):
    assert issubclass(FORMATS.load(row.name), Codec)
    if row.truth is None:
        assert row.block is None
        return
    x = torch.cat([torch.linspace(-1.1 * row.top, 1.1 * row.top, 4001), torch.randn(999)])
    wanted = on_grid(x.clamp(row.lowest, row.top), row)
    codes = row.codec.encode(x)
    assert torch.equal(row.codec.decode(codes), wanted)
    if row.packing > 1 and row.target.endswith("E2M1"):
        assert torch.equal(resolve(row.truth)().decode(codes), wanted)
