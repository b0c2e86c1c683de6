"""Tensors of bytes are joined and viewed bit by bit, whatever their dtype."""

import torch

from moe.byte_views import as_bytes, joined


def test_only_tensors_of_bytes_are_viewed_and_nothing_is_copied():
    codes, wide = torch.zeros(2, 3).to(torch.float8_e4m3fn), torch.zeros(2, 3)
    assert as_bytes(codes).dtype == torch.uint8
    assert as_bytes(codes).data_ptr() == codes.data_ptr()
    assert as_bytes(wide) is wide


def test_parts_are_joined_with_their_bits_and_dtype():
    bits = torch.arange(12, dtype=torch.uint8).view(3, 4)
    for dtype in (torch.uint8, torch.int8, torch.float8_e4m3fn):
        whole = joined([bits[:1].view(dtype), bits[1:].view(dtype)])
        assert whole.dtype == dtype
        assert torch.equal(whole.view(torch.uint8), bits)
    numbers = torch.randn(3, 4)
    assert torch.equal(joined([numbers[:, :1], numbers[:, 1:]], dim=1), numbers)
