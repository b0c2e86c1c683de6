"""What ranks tell each other before they send; disagreements are in test_all2all.py."""

from moe.all2all.sizes import exchange
from moe.collectives import ALONE
from tests.moe import stack_ranks


def test_counts_and_further_numbers_are_told_by_rank():
    for kind in ("model", "fp8_static", "fp8_group", "int8_token"):
        sizes = exchange(ALONE, *stack_ranks.sent_by(0, 3, kind), rows=(4, 5))
        assert (sizes.counts, sizes.rows) == ((3,), ((4, 5),))
