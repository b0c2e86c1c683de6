"""A layout is named groups, and all that a rank holds follows from them."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.layout import GROUPS, Layout, chunk
from moe.placement import linear

LAYOUTS = [
    Layout(dp_size=d, tp_size=t, use_ep=ep, sequence_parallel=sp)
    for d, t, ep, sp in itertools.product((1, 2, 3), (1, 2, 4), (False, True), (False, True))
    if ep or not sp
]
layouts = st.builds(
    Layout, dp_size=st.integers(1, 5), tp_size=st.integers(1, 5), use_ep=st.booleans()
)


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
        assert layout.tp_rank(rank) < layout.tp_size


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_ranks_with_the_same_tokens_gather_with_others(layout):
    """One rank of each set of equal tokens is in every gather group, and no two of them."""
    sets = {layout.same_tokens(rank) for rank in range(layout.world_size)}
    for group in layout.partition("gather"):
        assert all(len(set(group) & set(ranks)) == 1 for ranks in sets)


def test_a_group_that_nobody_named_is_a_key_error():
    with pytest.raises(KeyError, match="pcp"):
        Layout().partition("pcp")


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


@given(st.integers(1, 4), st.integers(1, 4), st.booleans(), st.data())
def test_every_token_is_held(dp_size, tp_size, split, data):
    counts = tuple(data.draw(st.lists(st.integers(0, 9), min_size=dp_size, max_size=dp_size)))
    layout = Layout(dp_size=dp_size, tp_size=tp_size, use_ep=True, sequence_parallel=split)
    for dp_rank, count in enumerate(counts):
        ranks = [r for r in range(layout.world_size) if layout.dp_rank(r) == dp_rank]
        held = [list(layout.tokens_of(rank, counts)) for rank in ranks]
        if split:
            assert [t for tokens in held for t in tokens] == list(range(count))
        else:
            assert held == [list(range(count))] * tp_size
