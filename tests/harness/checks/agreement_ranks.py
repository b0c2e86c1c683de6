"""A collective check that only one rank wants, for real ranks."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from harness.checks.agreement import names_on_all_ranks
from harness.checks.check import Check, Observation
from harness.checks.judge import judge
from harness.fixtures.layer_under_test import make_subject
from harness.fixtures.phase_timer import Clock
from harness.matrix.case import MoETestConfig
from harness.record.result import Finding
from tests.harness.execute_ranks import context


def _run(seen: Observation) -> tuple[Finding, ...]:
    ranks = seen.subject.layer.groups.tp.all_gather(torch.tensor([seen.context.rank]))
    return (Finding(check="collective", text=str(ranks.tolist())),)


def judged_by_check_for(ranks: list[int], text: str) -> list[str]:
    """Texts of a collective check that applies on some ranks; it gathers the ranks' numbers."""
    here = context(2)
    check = Check(
        name="collective",
        run=_run,
        applies=lambda seen: seen.context.rank in ranks,
        collective=True,
    )
    subject = make_subject(MoETestConfig.from_id(text), here)
    seen = Observation(subject=subject, context=here, calls=[SimpleNamespace(number=0)])
    return [finding.text for finding in judge(seen, (check,), Clock(context=here)).findings]


def names_agreed() -> list[str]:
    """Return which of three names both ranks have: each has one that the other lacks."""
    names = {"both", f"rank {context(2).rank}"}
    return sorted(names_on_all_ranks(names, ("rank 0", "both", "rank 1"), 2))
