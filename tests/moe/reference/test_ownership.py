"""What a layout loses or doubles is refused, whoever else believes in it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from moe.layout import Layout
from moe.placement import Placement
from moe.reference.ownership import check_rank, check_tokens, first_holders, holders
from moe.spec import LayerSpec


def layer_spec(layout: Layout) -> LayerSpec:
    return LayerSpec(m=4, hidden=8, intermediate=10, num_experts=5, top_k=1, layout=layout)


BOTH = Layout(pcp_size=2, tp_size=2, use_ep=True, moe_tp_size=2)


class Without(Layout):
    """Sizes divided and the remainder forgotten, for columns and tokens."""

    def intermediate_of(self, rank, intermediate):
        size = intermediate // self.world_size
        return range(intermediate) if self.use_ep else range(rank * size, (rank + 1) * size)

    def tokens_of(self, rank, counts):
        size = counts[self.dp_rank(rank)] // self.tp_size
        return range(self.tp_rank(rank) * size, (self.tp_rank(rank) + 1) * size)


class Twice(Layout):
    def intermediate_of(self, rank, intermediate):
        return range(intermediate)


def test_each_column_of_each_expert_is_held_once():
    layouts = (Layout(tp_size=4), Layout(dp_size=2, tp_size=2, use_ep=True), Layout(), BOTH)
    for layout in layouts:
        for e in range(5):
            ranks, columns = holders(layer_spec(layout), e)
            assert sorted(c for part in columns for c in part) == list(range(10))
            assert len(columns) == ranks.stop - ranks.start


def test_the_ranks_that_compute_a_token_are_those_of_its_part():
    layout = Layout(dp_size=8, use_ep=True, expert_dp_size=2, moe_tp_size=2)
    spec = layer_spec(layout)
    for rank in range(8):
        held = [range(*holders(spec, e, rank=rank)[0].indices(8)) for e in range(5)]
        start = rank // 4 * 4
        assert {r for part in held for r in part} == set(range(start, start + 4))
        of_rank = first_holders(spec, rank)
        assert [bool(experts) for experts in of_rank] == [start <= r < start + 4 for r in range(8)]


@pytest.mark.parametrize(
    ("layout", "text"),
    [
        (
            Without(tp_size=4),
            "assigns 10 columns of expert 4 as 0:2 to rank 0, 2:4 to rank 1",
        ),
        (Twice(tp_size=2), "10 columns of expert 4 as 0:10 to rank 0, 0:10 to rank 1; each must"),
    ],
)
def test_a_layout_that_loses_or_doubles_columns_is_refused(layout, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        holders(layer_spec(layout), 4)


def placed(experts: tuple[int, ...], counts: tuple[int, ...]) -> LayerSpec:
    """Two EP ranks with these experts."""
    made = Placement(num_experts=5, physical_to_logical=experts, counts=counts)
    return Placed(**vars(layer_spec(Layout(tp_size=2, use_ep=True))), made=made)


@dataclass(frozen=True, kw_only=True)
class Placed(LayerSpec):
    made: Placement

    @property
    def placement(self) -> Placement:
        return self.made


@pytest.mark.parametrize(
    ("experts", "counts", "text"),
    [
        ((0, 1, 2, 3), (2, 2), "10 columns of expert 4 as none to any rank;"),
        ((0, 1, 4, 2, 3, 4), (3, 3), "expert 4 as 0:10 to rank 0, 0:10 to rank 1; each must be"),
        ((0, 1, 4, 4, 2, 3), (4, 2), "expert 4 as 0:10 to rank 0, 0:10 to rank 0; each must be"),
    ],
)
def test_a_placement_that_loses_or_doubles_experts_is_refused(experts, counts, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        holders(placed(experts, counts), 4)


def test_the_reference_asks_who_owns_an_expert_and_not_the_map_of_the_layer(monkeypatch):
    monkeypatch.delattr(Placement, "expert_map")
    ranks, columns = holders(placed((4, 2, 0, 3, 1), (2, 3)), 1)
    assert (ranks, columns) == (slice(1, 2), [range(10)])


def test_each_token_is_held_once():
    for tp in (1, 2, 3):
        for count in (0, 1, 7):
            check_tokens(Layout(tp_size=tp, use_ep=True, sequence_parallel=tp > 1), 0, (count,))
            check_tokens(Layout(dp_size=2, tp_size=tp), 1, (3, count))
            check_tokens(Layout(dp_size=2, pcp_size=2, tp_size=tp), 1, (3, count))


def test_a_layout_that_loses_tokens_is_refused():
    split = Without(dp_size=2, tp_size=2, use_ep=True, sequence_parallel=True)
    text = "the layout assigns 7 tokens as 0:3 to rank 2, 3:6 to rank 3; each must be assigned once"
    with pytest.raises(ValueError, match=re.escape(text)):
        check_tokens(split, 1, (4, 7))
    with pytest.raises(ValueError, match=r"3 tokens as 0:1 to rank 0, 1:2 to rank 1"):
        check_tokens(Without(tp_size=2), 0, (3,))
    with pytest.raises(ValueError, match=r"3 tokens as 0:3 to rank 0, 0:3 to rank 1"):
        check_tokens(Everywhere(pcp_size=2), 0, (3,))


class Everywhere(Layout):
    """Every context rank has all tokens."""

    def tokens_of(self, rank, counts):
        return range(counts[self.dp_rank(rank)])


class TpOutermost(Layout):
    """Neighbours are of one TP rank, and those who ask for a rank's group think otherwise."""

    def dp_rank(self, rank):
        return rank % self.dp_size

    def tp_rank(self, rank):
        return rank // self.dp_size


def test_a_rank_is_where_its_layout_says():
    for rank in range(4):
        check_rank(Layout(dp_size=2, tp_size=2), rank)
        check_rank(BOTH, rank)
    text = "rank 1 the DP rank 1 of 2, context rank 0 of 1, TP rank 0 of 2; rank = (DP rank * 1 + "
    text = re.escape(f"{text}context rank) * 2 + TP rank must hold for ranks 0 to 3")
    with pytest.raises(ValueError, match=text):
        check_rank(TpOutermost(dp_size=2, tp_size=2), 1)


@pytest.mark.parametrize("rank", [-1, 4])
def test_a_rank_outside_of_its_layout_is_refused(rank):
    with pytest.raises(
        ValueError, match=f"rank {rank} is not in this layout, which has ranks 0 to 3"
    ):
        check_rank(Layout(dp_size=2, tp_size=2), rank)
