"""A layout is named groups, and all that a rank holds follows from them."""

import dataclasses
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.layout import GROUPS, Layout, chunk
from moe.placement import linear

LAYOUTS = [
    Layout(dp_size=d, pcp_size=p, tp_size=t, use_ep=ep, sequence_parallel=sp, moe_tp_size=m)
    for d, p, t, m in itertools.product((1, 2, 3), (1, 2), (1, 2, 4), (1, 2))
    for ep, sp in ((False, False), (True, False), (True, True))
    if d * p * t % m == 0
]
layouts = st.builds(
    Layout,
    dp_size=st.integers(1, 5),
    pcp_size=st.integers(1, 3),
    tp_size=st.integers(1, 5),
    use_ep=st.booleans(),
)


def test_the_groups_of_two_dp_ranks_with_two_tp_ranks_each():
    plain = Layout(dp_size=2, tp_size=2)
    assert {name: plain.partition(name) for name in GROUPS} == {
        "dp": ((0, 2), (1, 3)),
        "pcp": ((0,), (1,), (2,), (3,)),
        "tp": ((0, 1), (2, 3)),
        "replica": ((0, 1), (2, 3)),
        "experts": ((0, 1, 2, 3),),
        "expert_dp": ((0,), (1,), (2,), (3,)),
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


def test_the_groups_of_two_context_ranks_of_two_ranks_each():
    layout = Layout(dp_size=2, pcp_size=2, tp_size=2)
    names = ("dp", "pcp", "tp", "replica", "tokens", "gather")
    assert {name: layout.partition(name) for name in names} == {
        "dp": ((0, 4), (1, 5), (2, 6), (3, 7)),
        "pcp": ((0, 2), (1, 3), (4, 6), (5, 7)),
        "tp": ((0, 1), (2, 3), (4, 5), (6, 7)),
        "replica": ((0, 1, 2, 3), (4, 5, 6, 7)),
        "tokens": ((0, 2), (1, 3), (4, 6), (5, 7)),
        "gather": ((0, 2, 4, 6), (1, 3, 5, 7)),
    }
    split = dataclasses.replace(layout, use_ep=True, sequence_parallel=True)
    assert split.partition("tokens") == layout.partition("replica")
    assert split.partition("gather") == (tuple(range(8)),)


def test_neighbours_split_the_experts_that_are_spread_over_the_others():
    layout = Layout(dp_size=4, tp_size=2, use_ep=True, moe_tp_size=4)
    assert layout.partition("moe_tp") == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert layout.partition("ep") == ((0, 4), (1, 5), (2, 6), (3, 7))
    assert (layout.size("ep"), layout.size("moe_tp")) == (2, 4)
    held = [
        (linear(layout, 5).experts_of(layout.ep_rank(r)), layout.intermediate_of(r, 10))
        for r in (0, 1, 6)
    ]
    assert held == [((0, 1, 2), range(3)), ((0, 1, 2), range(3, 6)), ((3, 4), range(6, 8))]


def test_parts_of_the_ranks_each_have_all_experts_for_their_own_tokens():
    layout = Layout(dp_size=4, tp_size=2, use_ep=True, expert_dp_size=2)
    names = ("experts", "expert_dp", "ep", "moe_tp", "gather", "tp")
    assert {name: layout.partition(name) for name in names} == {
        "experts": ((0, 1, 2, 3), (4, 5, 6, 7)),
        "expert_dp": ((0, 4), (1, 5), (2, 6), (3, 7)),
        "ep": ((0, 1, 2, 3), (4, 5, 6, 7)),
        "moe_tp": tuple((rank,) for rank in range(8)),
        "gather": ((0, 2), (1, 3), (4, 6), (5, 7)),
        "tp": ((0, 1), (2, 3), (4, 5), (6, 7)),
    }
    both = dataclasses.replace(layout, moe_tp_size=2, sequence_parallel=True)
    assert both.partition("ep") == ((0, 2), (1, 3), (4, 6), (5, 7))
    assert both.partition("moe_tp") == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert both.partition("gather") == both.partition("experts")
    assert [both.ep_rank(rank) for rank in range(8)] == [0, 0, 1, 1] * 2


def test_groups_that_do_not_divide_the_world_do_not_exist():
    layout = Layout(dp_size=3, use_ep=True, moe_tp_size=2)
    assert layout.world_size == 3
    with pytest.raises(ValueError, match=r"groups of 2 .* do not divide a world of 3"):
        layout.partition("tp")


def test_each_group_s_name_divides_the_world():
    for layout, name in itertools.product(LAYOUTS, GROUPS):
        world = list(range(layout.dp_size * layout.pcp_size * layout.tp_size))
        assert layout.world_size == len(world)
        assert sorted(itertools.chain(*layout.partition(name))) == world
        assert {len(group) for group in layout.partition(name)} == {layout.size(name)}
        for rank in world:
            group = layout.group(name, rank)
            assert group[layout.position(name, rank)] == rank


def test_ranks_count_tp_first_and_context_ranks_second():
    for layout in LAYOUTS:
        for rank in range(layout.world_size):
            replica = layout.dp_rank(rank) * layout.pcp_size + layout.pcp_rank(rank)
            assert rank == replica * layout.tp_size + layout.tp_rank(rank)
            assert layout.pcp_rank(rank) < layout.pcp_size
            assert layout.tp_rank(rank) < layout.tp_size


def test_ranks_with_the_same_tokens_gather_with_others():
    """One rank of each set of equal tokens is in every gather group, and no two of them."""
    for layout in LAYOUTS:
        sets = {layout.same_tokens(rank) for rank in range(layout.world_size)}
        for group in layout.partition("gather"):
            assert all(len(set(group) & set(ranks)) == 1 for ranks in sets)


def test_a_group_that_nobody_named_is_a_key_error():
    with pytest.raises(KeyError, match="pp"):
        Layout().partition("pp")


@given(st.integers(0, 200), st.integers(1, 20))
def test_chunks_cover_everything_once_and_evenly(total, parts):
    pieces = [chunk(total, parts, i) for i in range(parts)]
    assert [x for piece in pieces for x in piece] == list(range(total))
    sizes = [len(piece) for piece in pieces]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True)


@given(layouts, st.integers(1, 64))
def test_either_experts_or_columns_are_shared_out(layout, size):
    ranks = range(layout.world_size)
    placement = linear(layout, size)
    experts = [e for rank in ranks for e in placement.experts_of(layout.ep_rank(rank))]
    columns = [c for rank in ranks for c in layout.intermediate_of(rank, size)]
    once, everywhere = list(range(size)), list(range(size)) * layout.world_size
    assert experts == (once if layout.use_ep else everywhere)
    assert columns == (everywhere if layout.use_ep else once)


@given(st.sampled_from(LAYOUTS), st.integers(1, 64), st.integers(4, 64))
def test_each_column_of_each_expert_is_held_once(layout, experts, columns):
    placement = linear(layout, experts)
    held = [
        (e, c)
        for rank in range(layout.world_size)
        for e in placement.experts_of(layout.ep_rank(rank))
        for c in layout.intermediate_of(rank, columns)
    ]
    assert sorted(held) == list(itertools.product(range(experts), range(columns)))


@given(st.sampled_from(LAYOUTS), st.data())
def test_every_token_is_held(layout, data):
    sizes = st.lists(st.integers(0, 9), min_size=layout.dp_size, max_size=layout.dp_size)
    counts = tuple(data.draw(sizes))
    copies = 1 if layout.sequence_parallel else layout.tp_size
    for dp_rank, count in enumerate(counts):
        ranks = [r for r in range(layout.world_size) if layout.dp_rank(r) == dp_rank]
        held = sorted(t for rank in ranks for t in layout.tokens_of(rank, counts))
        assert held == sorted([*range(count)] * copies)
