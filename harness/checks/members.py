"""Check that the members that ran are those that the case names.

A correct output proves nothing about a member that did not compute it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks.check import Check, Observation
from harness.record.result import Finding
from moe import families
from moe.experts import EXPERTS
from moe.layers import COMPOSED
from moe.spec import MONOLITHIC

if TYPE_CHECKING:
    from collections.abc import Iterator

    from harness.fixtures.layer_under_test import Subject


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Compare the classes in the layer with those of the rows; a mismatch leads the report."""
    texts = _mismatches(observation.subject)
    return tuple(Finding(check=CHECK.name, text=text, leads=True) for text in texts)


def _mismatches(subject: Subject) -> Iterator[str]:
    case, actual = subject.case, subject.layer.members
    if case.layer != COMPOSED:  # a whole layer, loaded by its path: no members to compare
        return
    routes_itself = EXPERTS.row(case.experts).kind == MONOLITHIC
    for family, table in families.tables(families.SERVED):
        requested = getattr(case, family)
        served = EXPERTS.row(case.experts) if routes_itself and family == "router" else None
        class_name = (served or table.row(requested)).target.rpartition(":")[2]
        if actual[family] != class_name:
            yield f"{family}: asked for {requested} ({class_name}), and {actual[family]} ran"


CHECK = Check(name="members", run=findings, by_reference=False)
