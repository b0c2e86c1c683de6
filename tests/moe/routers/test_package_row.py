"""The row of a package's router is judged by the truth of its score."""

import pytest

from moe.routers.package_row import package_row
from moe.spec import Needs, resolve


@pytest.mark.parametrize(
    ("score", "sums_to_one", "saturated_at"),
    [("softmax", True, None), ("sigmoid", False, 32.0), ("softplus_sqrt", False, None)],
)
def test_what_follows_from_the_score(score, sums_to_one, saturated_at):
    takes = frozenset({"scale"})
    row = package_row("mine", "pkg.mod:Mine", score, takes=takes, needs=Needs(eplb=True))
    assert (row.name, row.target, row.takes) == ("mine", "pkg.mod:Mine", takes)
    assert (row.sums_to_one, row.saturated_at) == (sums_to_one, saturated_at)
    assert row.needs.eplb
    assert resolve(row.truth).__module__ == f"moe.routers.{score}.truth"
