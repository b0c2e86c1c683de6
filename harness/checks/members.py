"""Whether the members that were asked for are those that ran.

A right output says nothing of a member that did not make it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks.check import Check, Observation
from harness.record.result import Finding
from moe import families
from moe.layers import COMPOSED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.fixtures.layer_under_test import Subject


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Compare the classes in the layer with those of the rows: nothing matters more."""
    texts = _others(observation.subject)
    return tuple(Finding(check=CHECK.name, text=text, leads=True) for text in texts)


def _others(subject: Subject) -> Iterator[str]:
    case, ran = subject.case, subject.layer.members
    if case.layer != COMPOSED:  # one class, loaded by its path: there is no other
        return
    for family, table in families.tables(families.SERVED):
        asked = getattr(case, family)
        wanted = table.row(asked).target.rpartition(":")[2]
        if ran[family] != wanted:
            yield f"{family}: asked for {asked} ({wanted}), and {ran[family]} ran"


CHECK = Check(name="members", run=findings)
