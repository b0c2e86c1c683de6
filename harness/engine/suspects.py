"""Cases of a gang whose cached weights were changed by nobody knows whom. Torch-free.

After a case only what it used is summed. A change of anything else shows when a later case uses
it, or at the gang's end. Then all cases that the gang had run are run again, in the same order in
a fresh gang, with a sum of everything after each: the guilty case has its finding, the others
their verdict.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.record.result import CaseResult, Verdict

if TYPE_CHECKING:
    from collections import deque

    from harness.matrix.case import MoETestConfig

_TEXT = (
    "a case of its gang changed cached weights that this one may have used: it runs again, "
    "in a fresh gang"
)


@dataclass(kw_only=True)
class Suspects:
    """Of one job. ended: what its present gang has run; again: ids of cases that run again."""

    ended: list[MoETestConfig] = field(default_factory=list)
    again: set[str] = field(default_factory=set)

    def put_back(self, queue: deque[MoETestConfig]) -> list[CaseResult]:
        """Put the gang's cases before the queue; return what their verdicts are until then.

        None runs a third time. A case that was not judged is the queue's first, and stays in it.
        """
        cases = [case for case in self.ended if case.id not in self.again]
        self.again |= {case.id for case in (*cases, *list(queue)[:1])}
        queue.extendleft(reversed(cases))
        return [
            CaseResult(
                case_id=case.id, verdict=Verdict.NOT_RUN, reason="suspect", messages=(_TEXT,)
            )
            for case in cases
        ]
