"""Count how often one case fails when it runs many times, for `run --repeat N`.

The engine is given the case N times. A run's folder has one result for each case, so that the
results become one: the last that did not pass, with the count of all.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.record.events import CaseEnded, Event
from harness.record.formatting import numbers_text
from harness.record.result import PUT_BACK, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harness.record.result import CaseResult


class Repeats:
    """Collect the results of one case that runs `times` times."""

    def __init__(self, times: int) -> None:
        self.times = times
        self._results: list[CaseResult] = []

    def folded(self, events: Iterable[Event]) -> Iterator[Event]:
        """Yield the events, with one `CaseEnded` at the end in place of one for each repetition.

        If the engine ends early, it is of the repetitions so far.
        """
        last: CaseEnded | None = None
        for event in events:
            if not isinstance(event, CaseEnded):
                yield event
            elif event.result.reason == PUT_BACK:
                self._results.pop()
            else:
                self._results.append(event.result)
                last = event
        if last is not None:
            yield replace(last, result=self.result())

    def result(self) -> CaseResult:
        """Return the last result that did not pass, with the count; the last one if all passed."""
        bad = [r for r in self._results if r.verdict not in (Verdict.PASSED, Verdict.NOT_RUN)]
        seconds = sum(result.seconds for result in self._results)
        if not bad:
            return replace(self._results[-1], seconds=seconds)
        result = bad[-1].with_messages(before=(self.line(),))
        leading = (0, *result.leading)
        return replace(result, seconds=seconds, leading=leading, sketches=())

    def line(self) -> str:
        """Return the count, such as "failed 3 of 50 (3 failed), repetition 4, 17, 33"."""
        ran = [result for result in self._results if result.verdict is not Verdict.NOT_RUN]
        numbers = [n for n, r in enumerate(self._results, 1) if r in ran and _is_bad(r)]
        remaining = self.times - len(ran)
        tail = f"; {remaining} did not run" if remaining else ""
        if not numbers:
            return f"passed {len(ran)} of {self.times}{tail}"
        counts = Counter(r.verdict for r in ran if _is_bad(r))
        verdicts = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
        text = f"failed {len(numbers)} of {len(ran)} ({verdicts}), repetition"
        return f"{text} {numbers_text(numbers)}{tail}"


def _is_bad(result: CaseResult) -> bool:
    return result.verdict is not Verdict.PASSED
