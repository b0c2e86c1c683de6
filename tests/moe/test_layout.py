"""A layout is named groups, and all that a rank holds follows from them."""

import itertools

import pytest

from moe.layout import GROUPS, Layout

LAYOUTS = [
    Layout(dp_size=d, tp_size=t, use_ep=ep, sequence_parallel=sp)
    for d, t, ep, sp in itertools.product((1, 2, 3), (1, 2, 4), (False, True), (False, True))
    if ep or not sp
]


def test_the_groups_of_two_dp_ranks_with_two_tp_ranks_each():
    plain = Layout(dp_size=2, tp_size=2)
    assert {name: plain.partition(name) for name in GROUPS} == {
        "dp": ((0, 2), (1, 3)),
        "tp": ((0, 1), (2, 3)),
        "ep": ((0,), (1,), (2,), (3,)),
        "moe_tp": ((0, 1, 2, 3),),
        "tokens": ((0,), (1,), (2,), (3,)),
        "gather": ((0, 2), (1, 3)),
    }
    split = Layout(dp_size=2, tp_size=2, use_ep=True, sequence_parallel=True)
    changed = {name: split.partition(name) for name in ("ep", "moe_tp", "tokens", "gather")}
    assert changed == {
        "ep": ((0, 1, 2, 3),),
        "moe_tp": ((0,), (1,), (2,), (3,)),
        "tokens": ((0, 1), (2, 3)),
        "gather": ((0, 1, 2, 3),),
    }


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_each_group_s_name_divides_the_world(layout):
    world = list(range(layout.dp_size * layout.tp_size))
    assert layout.world_size == len(world)
    for name in GROUPS:
        assert sorted(itertools.chain(*layout.partition(name))) == world
        for rank in world:
            group = layout.group(name, rank)
            assert group[layout.position(name, rank)] == rank


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_ranks_count_tp_first(layout):
    for rank in range(layout.world_size):
        assert rank == layout.dp_rank(rank) * layout.tp_size + layout.tp_rank(rank)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_ranks_with_the_same_tokens_gather_with_others(layout):
    """One rank of each set of equal tokens is in every gather group, and no two of them."""
    sets = {layout.same_tokens(rank) for rank in range(layout.world_size)}
    for group in layout.partition("gather"):
        assert all(len(set(group) & set(ranks)) == 1 for ranks in sets)


def test_a_group_that_nobody_named_is_a_key_error():
    with pytest.raises(KeyError, match="pcp"):
        Layout().partition("pcp")
