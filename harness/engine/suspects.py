"""Run the cases of a gang again if one of them, unknown which, changed cached weights. Torch-free.

After a case only the tensors that it used are summed. A change of others is detected when a later
case uses them, or at the gang's end. All cases of the gang then run again in a fresh gang, in the
same order and with a sum of all tensors after each: the guilty case gets the finding, the others
their verdict.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.record.result import PUT_BACK, CaseResult, Verdict

if TYPE_CHECKING:
    from collections import deque

    from harness.matrix.case import MoETestConfig

_TEXT = (
    "a case of its gang changed cached weights that this one may have used: it runs again, "
    "in a fresh gang"
)


@dataclass(kw_only=True)
class Suspects:
    """Hold the cases of one job that may be guilty.

    ended: cases that its present gang has run. rerun: ids of cases that run again.
    """

    ended: list[MoETestConfig] = field(default_factory=list)
    rerun: set[str] = field(default_factory=set)

    def put_back(self, queue: deque[MoETestConfig]) -> list[CaseResult]:
        """Put the gang's cases before the queue; return their results until then.

        No case runs a third time. A case that was not judged is the first of the queue, and stays
        there.
        """
        cases = [case for case in self.ended if case.id not in self.rerun]
        self.rerun |= {case.id for case in (*cases, *list(queue)[:1])}
        queue.extendleft(reversed(cases))
        return [
            CaseResult(case_id=case.id, verdict=Verdict.NOT_RUN, reason=PUT_BACK, messages=(_TEXT,))
            for case in cases
        ]
