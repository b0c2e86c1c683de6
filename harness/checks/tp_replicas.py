"""Whether the ranks of a TP group hold the same bits of the same tokens.

Each of them goes on with its own copy: where the copies differ by a last bit, their next routers
may choose other experts, and the ranks part for good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks.bits import row_sums
from harness.formatting import numbers_text

if TYPE_CHECKING:
    from torch import Tensor

    from harness.fixtures.layer_under_test import Subject


def complaint(subject: Subject, out: Tensor) -> str | None:
    """Collective over the TP group. out: [T, K], this rank's. Split tokens are nobody else's."""
    tp, layout = subject.layer.groups.tp, subject.case.layout
    if tp.size == 1 or layout.sequence_parallel or len(out) == 0:
        return None
    everyone = tp.all_gather(row_sums(out)).view(tp.size, len(out))
    other = (everyone != everyone[0]).any(dim=0).nonzero().flatten().tolist()
    if not other:
        return None
    return (
        f"ranks of one TP group hold different bits of {len(other)} of {len(out)} tokens "
        f"({numbers_text(other)}): sum in one order on all of them, or sum once and send the result"
    )
