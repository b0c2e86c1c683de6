"""Whether the ranks of a TP group hold the same bits of the same tokens.

Each of them goes on with its own copy: where the copies differ by a last bit, their next routers
may choose other experts, and the ranks part for good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks.bits import row_sums
from harness.checks.check import Check, Observation
from harness.formatting import numbers_text
from harness.record.result import Finding

if TYPE_CHECKING:
    from torch import Tensor

    from harness.fixtures.layer_under_test import Subject


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Collective. Compare the first call's output on the ranks of each TP group."""
    text = complaint(observation.subject, observation.calls[0].output.out)
    return () if text is None else (Finding(check=CHECK.name, text=text),)


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


CHECK = Check(name="tp_replicas", run=findings, collective=True)
