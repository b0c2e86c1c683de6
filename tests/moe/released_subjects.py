"""What the tests of released packages share: skips where one is not there, and a case's error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness import parallel_launch
from harness.diagnosis import causes
from moe import packages
from tests.harness.execute_ranks import run_all

if TYPE_CHECKING:
    from harness.matrix.case import MoETestConfig
    from harness.record.result import RankResult


def needs(package: packages.Package) -> pytest.MarkDecorator:
    """Skip where the package will not do, with the reason that a plan gives."""
    reason = packages.refusal(package)
    return pytest.mark.skipif(reason is not None, reason="" if reason is None else reason.text)


def errors_of(*cases: MoETestConfig) -> list[float]:
    """Run cases of one world size; return the relative rms error of each, the largest of its ranks.

    What they leave behind in the process is asserted to be nothing.
    """
    ranks = parallel_launch(cases[0].world_size, _run, [case.id for case in cases])
    results = [result for results in ranks for result in results]
    assert [r.findings for r in results if any(f.check == "state" for f in r.findings)] == []
    return [max(rank[i].metrics.get("rel_rms", 0.0) for rank in ranks) for i in range(len(cases))]


def _run(ids: list[str]) -> list[RankResult]:
    """Run cases in a rank; how large an error is, is the question, not why."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(causes, "SECONDS", 0.0)
        return run_all(ids)
