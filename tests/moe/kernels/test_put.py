"""Rows put by address, of several ranks in one process, against the twins."""

import pytest
import torch

from moe.errors import MoEError
from moe.kernels.place import place
from moe.kernels.put import (
    Buffers,
    Rows,
    Targets,
    number_blocks,
    put_rows,
    put_rows_torch,
    words_of,
)
from tests.moe.kernels.test_place import RANKS, holders_on, ids_of


def made_buffers(room, rows, top_k, device):
    numbers = number_blocks(room, top_k, rows.adapters is not None)["end"]

    def filled(*shape, like):
        return torch.full(shape, 77, dtype=like.dtype, device=device)

    return [
        Buffers(
            codes=filled(room, rows.codes.shape[1], like=rows.codes),
            scale=None
            if rows.scale is None
            else filled(room, rows.scale.shape[1], like=rows.scale),
            numbers=torch.full((numbers,), 77, dtype=torch.int32, device=device),
        )
        for _ in range(RANKS)
    ]


def addresses(tensors, device):
    return torch.tensor([t.data_ptr() for t in tensors], device=device)


def targets_of(buffers, starts, room, fill, device):
    has_scale = buffers[0].scale is not None
    return Targets(
        codes=addresses([b.codes for b in buffers], device),
        scale=addresses([b.scale for b in buffers], device) if has_scale else None,
        numbers=addresses([b.numbers for b in buffers], device),
        starts=torch.tensor(starts, device=device),
        room=room,
        fill=fill,
    )


def rows_of(ids, width, dtype, scales, has_adapters, device):
    tokens = len(ids)
    codes = torch.arange(tokens * width).view(tokens, width) % 251
    scale = None if scales is None else torch.rand(tokens, scales, device=device)
    adapters = torch.arange(tokens, dtype=torch.int32, device=device) - 1 if has_adapters else None
    return Rows(
        codes=words_of(codes.to(dtype).to(device)),
        scale=None if scale is None else words_of(scale),
        ids=ids,
        weights=torch.rand(ids.shape, device=device),
        adapters=adapters,
        first=1000,
    )


@pytest.mark.parametrize(
    ("tokens", "width", "dtype", "scales", "has_adapters", "fill"),
    [
        (13, 128, torch.bfloat16, None, False, 0),
        (13, 130, torch.uint8, 1, True, 15),
        (0, 128, torch.bfloat16, None, True, 4),
        (5, 1101, torch.uint8, 9, False, 6),
    ],
)
def test_rows_arrive_at_each_rank_as_the_twin_says(
    tokens, width, dtype, scales, has_adapters, fill, kernel_device
):
    device = kernel_device
    ids, holders = ids_of(tokens, device), holders_on(device)
    rows = rows_of(ids, width, dtype, scales, has_adapters, device)
    position, counts = place(ids, holders)
    room, starts = 20, [2, 0, 3]
    got, wanted = (made_buffers(room, rows, 2, device) for _ in range(2))
    put_rows(rows, targets_of(got, starts, room, fill, device), position, counts, holders)
    targets = targets_of(wanted, starts, room, fill, device)
    put_rows_torch(rows, targets, position, holders, wanted)
    for one, other in zip(got, wanted, strict=True):
        assert torch.equal(one.codes, other.codes)
        assert torch.equal(one.numbers, other.numbers)
        assert one.scale is None or torch.equal(one.scale, other.scale)


def test_words_are_the_largest_that_fit(kernel_device):
    def words(columns, dtype=torch.uint8, begin=0):
        whole = torch.arange(64, dtype=torch.uint8, device=kernel_device)
        rows = whole[begin : begin + 2 * columns].view(2, columns)
        return words_of(rows.view(dtype)).dtype

    assert words(16) == words(16, torch.bfloat16) == torch.int64
    assert words(12) == torch.int32
    assert words(16, begin=4) == torch.int32
    assert words(6) == torch.int16
    assert words(7) == torch.uint8


def test_numbers_lie_in_blocks():
    blocks = {"tokens": 0, "ids": 10, "weights": 40, "adapters": 70, "end": 80}
    assert number_blocks(10, 3, True) == blocks
    assert number_blocks(10, 3, False)["end"] == 70


def test_what_does_not_fit_is_an_error(kernel_device):
    device = kernel_device
    ids, holders = ids_of(4, device), holders_on(device)
    rows = rows_of(ids, 16, torch.uint8, 1, False, device)
    position, counts = place(ids, holders)
    buffers = made_buffers(8, rows, 2, device)
    targets = targets_of(buffers, [0, 0], 8, 0, device)
    with pytest.raises(MoEError, match=r"targets.starts has 2 entries, .* asks for 3"):
        put_rows(rows, targets, position, counts, holders)
    with pytest.raises(MoEError, match=r"rows.ids has 4 entries, .* asks for 3"):
        put_rows(rows, targets, position[:, :3], counts, holders)
    targets = targets_of(made_buffers(8, rows, 2, device), [0, 0, 0], 8, 0, device)
    plain = rows_of(ids, 16, torch.uint8, None, False, device)
    with pytest.raises(MoEError, match=r"scales have rows and a target, or neither"):
        put_rows(plain, targets, position, counts, holders)
