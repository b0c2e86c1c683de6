"""Two four-bit codes in a byte."""

import pytest
import torch

from moe.errors import MoEError
from moe.formats.nibbles import pack, unpack


def test_the_even_column_is_in_the_low_half():
    assert pack(torch.tensor([[1, 2, 15, 0]])).tolist() == [[0x21, 0x0F]]
    assert unpack(torch.tensor([[0x21, 0x0F]], dtype=torch.uint8)).tolist() == [[1, 2, 15, 0]]


def test_every_byte_is_packed_from_what_it_is_unpacked_to():
    codes = torch.arange(256, dtype=torch.uint8).view(2, 4, 32)
    assert torch.equal(pack(unpack(codes)), codes)


def test_an_odd_row_cannot_be_packed():
    with pytest.raises(MoEError, match=r"cannot pack 3 four-bit .*must be even; pad the rows"):
        pack(torch.zeros(2, 3))
