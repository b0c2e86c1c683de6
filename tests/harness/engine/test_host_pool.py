"""Ranks are divided over hosts, and logs come back to the gang's folder."""

from __future__ import annotations

import pytest

from harness.engine.host_pool import copy_into, split


@pytest.mark.parametrize(
    ("world_size", "hosts", "expected"),
    [
        (4, 2, [[0, 1], [2, 3]]),
        (5, 2, [[0, 1, 2], [3, 4]]),
        (1, 3, [[0], [], []]),
        (2, 3, [[0], [1], []]),
        (8, 1, [[0, 1, 2, 3, 4, 5, 6, 7]]),
    ],
)
def test_ranks_are_divided_evenly_neighbours_together(world_size, hosts, expected):
    assert [list(ranks) for ranks in split(world_size, hosts)] == expected


def test_a_copy_continues_where_the_log_was_and_stays_in_the_gangs_folder(tmp_path):
    folder = tmp_path / "gang1"
    folder.mkdir()
    copy_into(folder, {"rank0.log": (0, "b25l"), "../../rank1.log": (0, "dHdv")})
    copy_into(folder, {"rank0.log": (3, "IG1vcmU=")})
    assert (folder / "rank0.log").read_text() == "one more"
    copy_into(folder, {"rank0.log": (0, "bmV3")})  # it began anew
    assert (folder / "rank0.log").read_text() == "new"
    assert sorted(path.name for path in tmp_path.rglob("*.log")) == ["rank0.log", "rank1.log"]
    assert (folder / "rank1.log").read_text() == "two"
