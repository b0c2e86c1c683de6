"""What the adapters of released packages share: their buffers, and whom they refuse."""

import importlib

import pytest

from moe.all2all import ALL2ALL
from moe.all2all.package_member import room_for
from moe.collectives import ALONE, Group
from moe.errors import MoEError
from tests.moe import stack_ranks

NAMES = sorted(row.name for row in ALL2ALL.built_in if row.needs.packages)


def test_every_row_of_a_package_is_compared_with_our_own_member():
    for name in NAMES:
        module = importlib.import_module(f"tests.moe.all2all.test_{name}")
        assert callable(module.test_rows_and_sums_are_those_of_our_own_member)


@pytest.mark.parametrize("name", NAMES)
def test_ranks_that_share_a_device_or_are_alone_get_an_error(name):
    x, routing = stack_ranks.sent_by(0, 3, "model")
    with pytest.raises(MoEError, match=r"needs a group of ranks with a device each.*are alone"):
        stack_ranks.made(name, ALONE).prepare(x, routing)
    shared = Group(handle=object(), size=1, rank=0, staged=True)
    with pytest.raises(MoEError, match=r"these share a device: use an all2all backend with"):
        stack_ranks.made(name, shared).prepare(x, routing)


@pytest.mark.parametrize(
    ("counts", "room"), [((0, 0), 1), ((1, 0), 1), ((3, 2), 4), ((4, 4), 4), ((5, 0), 8)]
)
def test_a_buffer_has_room_for_a_power_of_two(counts, room):
    assert room_for(counts) == room
