"""Rows of three ranks, counted by hand."""

import pytest

from moe.all2all.row_places import one_after_the_other, reserved
from moe.errors import MoEError

SENT = ((2, 1, 0), (0, 3, 4), (5, 0, 0))  # from each rank to each


def test_rows_follow_each_other_in_rank_order():
    places = one_after_the_other((2, 4, 5), SENT, 1)
    assert places.counts == (2, 4, 5)
    assert (places.room, places.used, places.back_room) == (7, 4, 7)
    assert places.starts == (2, 1, 0)
    assert places.came == (0, 1, 4)
    assert places.limits == (1, 3, 0)
    assert places.returns == (2, 0, 5)
    assert places.back == (0, 0, 3)
    assert places.fill == 0


def test_no_two_ranks_put_rows_into_the_same_place():
    """There and back, with what each rank computes by itself."""
    for make in (
        lambda r: one_after_the_other((2, 4, 5), SENT, r),
        lambda r: reserved((5,) * 3, 5, r),
    ):
        all_places = [make(rank) for rank in range(3)]
        for d, receiver in enumerate(all_places):
            there, back = [], []
            for s, sender in enumerate(all_places):
                assert sender.starts[d] == receiver.came[s]
                assert sender.returns[d] == receiver.back[s]
                there += range(sender.starts[d], sender.starts[d] + receiver.limits[s])
                back += range(receiver.back[s], receiver.back[s] + sender.limits[d])
            assert len(set(there)) == len(there) == receiver.used
            assert len(set(back)) == len(back) <= receiver.back_room
            assert max(there, default=-1) < receiver.room


def test_more_tokens_than_the_capacity_are_an_error():
    with pytest.raises(
        MoEError, match=r"have 2, 7 tokens .* the capacity is 5: give more capacity"
    ):
        reserved((2, 7), 5, 0)
