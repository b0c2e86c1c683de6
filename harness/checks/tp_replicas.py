"""Check that all ranks of a TP group hold the same bits of the same tokens.

Each rank continues with its own copy: if copies differ in a single bit, the next router may choose
different experts on each rank, and the ranks diverge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks.bits import row_sums
from harness.checks.check import Check, Observation
from harness.record.formatting import numbers_text
from harness.record.result import Finding

if TYPE_CHECKING:
    from torch import Tensor

    from harness.fixtures.layer_under_test import Subject


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Compare the first call's output across the ranks of each TP group. Collective."""
    text = message(observation.subject, observation.calls[0].output.out)
    return () if text is None else (Finding(check=CHECK.name, text=text),)


def message(subject: Subject, out: Tensor) -> str | None:
    """Return a message if replicas differ; else None. Collective over the TP group.

    out: [T, K], this rank's. Under sequence parallelism there are no replicas.
    """
    tp, layout = subject.layer.groups.tp, subject.case.layout
    if tp.size == 1 or layout.sequence_parallel or len(out) == 0:
        return None
    replicas = tp.all_gather(row_sums(out)).view(tp.size, len(out))
    differing = (replicas != replicas[0]).any(dim=0).nonzero().flatten().tolist()
    if not differing:
        return None
    return (
        f"ranks of one TP group hold different bits of {len(differing)} of {len(out)} tokens "
        f"({numbers_text(differing)}): add in the same order on every rank, or add once and "
        "broadcast the result"
    )


CHECK = Check(name="tp_replicas", run=findings, collective=True, by_reference=False)
