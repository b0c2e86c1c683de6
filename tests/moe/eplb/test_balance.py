"""The balancing algorithm: its published example, and what holds for all loads."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moe.eplb.balance import Cluster, balanced, packed, replicated
from moe.errors import MoEError

# Loads of twelve experts in two layers, and where their sixteen slots are on two nodes of four
# ranks, as the algorithm's authors print them.
PUBLISHED = {
    (90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86): (
        *(5, 6, 5, 7, 8, 4, 3, 4),
        *(10, 9, 10, 2, 0, 1, 11, 1),
    ),
    (20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27): (
        *(7, 10, 6, 8, 6, 11, 8, 9),
        *(2, 4, 5, 1, 5, 0, 3, 1),
    ),
}


def test_the_published_example_is_reproduced():
    cluster = Cluster(slots=16, ranks=8, nodes=2, groups=4)
    assert {loads: balanced(loads, cluster) for loads in PUBLISHED} == PUBLISHED


@st.composite
def problems(draw):
    """Loads and a cluster for them, with few different loads, so that many are equal."""
    nodes, groups_of_node = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    ranks_of_node, size = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    groups, ranks = nodes * groups_of_node, nodes * ranks_of_node
    least = -(-groups * size // ranks)
    slots = ranks * draw(st.integers(least, least + 2))
    loads = draw(
        st.lists(st.integers(0, 9), min_size=groups * size, max_size=groups * size),
    )
    return loads, Cluster(slots=slots, ranks=ranks, nodes=nodes, groups=groups)


@given(problems())
def test_what_holds_for_every_result(problem):
    loads, cluster = problem
    held = balanced(loads, cluster)
    counts = [held.count(e) for e in range(len(loads))]
    assert sum(counts) == len(held) == cluster.slots
    assert min(counts) >= 1, "each logical expert has a slot"
    largest = max(Fraction(load) / count for load, count in zip(loads, counts, strict=True))
    assert largest <= max(loads), "no replica has more than its expert has alone"
    assert balanced(list(loads), cluster) == held, "the same loads give the same placement"


@given(problems())
def test_groups_stay_on_one_node(problem):
    loads, cluster = problem
    held, size = balanced(loads, cluster), len(loads) // cluster.groups
    per_node = cluster.slots // cluster.nodes
    nodes_of: dict[int, set[int]] = {}
    for slot, expert in enumerate(held):
        nodes_of.setdefault(expert // size, set()).add(slot // per_node)
    assert all(len(nodes) == 1 for nodes in nodes_of.values())


@given(st.lists(st.integers(0, 9), min_size=1, max_size=8), st.integers(0, 6))
def test_a_further_replica_lowers_the_largest_load(loads, extra):
    fractions = [Fraction(load) for load in loads]

    def largest(slots: int) -> Fraction:
        held = replicated(fractions, slots)
        return max(fractions[e] / held.count(e) for e in held)

    assert largest(len(loads) + extra) <= largest(len(loads))


@given(st.lists(st.integers(0, 9), min_size=2, max_size=12), st.integers(1, 4))
def test_packs_have_equal_numbers_and_close_sums(loads, packs):
    items = loads[: len(loads) // packs * packs]
    if not items:
        return
    contents = packed([Fraction(load) for load in items], packs)
    assert sorted(item for pack in contents for item in pack) == list(range(len(items)))
    assert {len(pack) for pack in contents} == {len(items) // packs}
    sums = [sum(items[item] for item in pack) for pack in contents]
    assert max(sums) - min(sums) <= max(items) * (len(items) // packs)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"slots": 5}, "5 slots do not divide into 2 ranks"),
        ({"nodes": 3}, "2 ranks do not divide into 3 nodes"),
        ({"ranks": 0}, "ranks is 0; it must be at least 1"),
        ({"slots": 2}, "4 experts have only 2 slots"),
        ({"groups": 3}, "4 experts do not divide into 3 groups"),
    ],
)
def test_a_cluster_that_does_not_fit_is_refused(change, text):
    with pytest.raises(MoEError, match=text):
        balanced([1, 2, 3, 4], Cluster(**{"slots": 6, "ranks": 2, **change}))


@pytest.mark.parametrize("load", [-1, float("nan"), float("inf")])
def test_a_load_that_is_no_number_is_refused(load):
    with pytest.raises(MoEError, match="the load of expert 1 is"):
        balanced([1, load], Cluster(slots=2, ranks=2))
