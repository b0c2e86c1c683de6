"""Try a case with the next seeds if its own inputs could not have shown a mistake. Torch-free.

Whether inputs show every mistake is known only when they are there: of two experts' scales that
happen to be alike, the wrong one passes. The layer was right with these inputs, so a further seed
hides nothing: it asks for more. The result is that of the first seed that shows something, and says
so; what did not pass with it counts as it would have under its own id.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from harness.engine.messages import Done
from harness.record.formatting import numbers_text
from harness.record.result import CaseResult, Verdict

if TYPE_CHECKING:
    from harness.engine.task_outcome import Outcome
    from harness.matrix.case import MoETestConfig

FURTHER = 2  # seeds of a run, after a case's own


@dataclass(kw_only=True)
class Tries:
    """Hold what seeds of one case showed nothing. further: how many are tried after its own."""

    further: int = 0
    vacuous: list[CaseResult] = field(default_factory=list)  # in the order of their seeds

    def case(self, planned: MoETestConfig) -> MoETestConfig:
        """Return the case to run: the planned one, with the first seed that was not tried."""
        return planned.replace(seed=planned.seed + len(self.vacuous)) if self.vacuous else planned

    def goes_on(self, outcome: Outcome, result: CaseResult) -> bool:
        """Keep a result that shows nothing; return whether another seed is to be tried.

        No other seed mends a rank whose process was altered.
        """
        answers = outcome.answers.values()
        is_altered = any(isinstance(answer, Done) and answer.poisoned for answer in answers)
        is_last = len(self.vacuous) == self.further
        if result.verdict is not Verdict.VACUOUS or is_altered or is_last:
            return False
        self.vacuous.append(result)
        return True

    def judged(self, planned: MoETestConfig, result: CaseResult) -> CaseResult:
        """Return the last seed's result as that of the planned case, which says which seed it is.

        If no seed shows anything, it is the result of the case's own.
        """
        if not self.vacuous:
            return result
        seconds = sum(past.seconds for past in self.vacuous) + result.seconds
        if result.verdict is Verdict.VACUOUS:
            others = [planned.seed + 1 + i for i in range(len(self.vacuous))]
            text = f"nor would inputs of seed {numbers_text(others)} show every mistake"
            first = dataclasses.replace(self.vacuous[0], seconds=seconds, attempt=result.attempt)
            return first.with_messages(after=(text,))
        seed = planned.seed + len(self.vacuous)
        past = tuple(
            f"with seed {planned.seed + i} the case was vacuous: {message}"
            for i, tried in enumerate(self.vacuous)
            for message in tried.messages or ("",)
        )
        named = dataclasses.replace(result, case_id=planned.id, seed=seed, seconds=seconds)
        return named.with_messages(after=past)
