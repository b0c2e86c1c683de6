"""Apply known failures to a run: what is held back, what is expected, and what is no longer true.

Verdicts are decided here and recorded, so that every report, exit code and merged run agrees:
an expected failure becomes `known`; a pass that an entry rules out, and a pass under an entry that
has expired, become `failed`. No torch.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.record.events import CaseEnded
from harness.record.result import CaseResult, Verdict
from harness.record.summary import BAD

if TYPE_CHECKING:
    import datetime
    from collections.abc import Iterable, Iterator

    from harness.record.events import Event
    from harness.record.known_failures import KnownFailure
    from harness.record.run_info import RefusedCase

QUARANTINED = "quarantined"  # reason code of cases that are never launched
UNEXPECTED = "unexpected_pass"
EXPIRED = "expired_entry"
KNOWN_FAILURE = "known_failure"


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """The known failures of one run. today: in UTC. platform: name of the run's."""

    entries: tuple[KnownFailure, ...] = ()
    platform: str
    today: datetime.date

    def entry(self, case_id: str) -> KnownFailure | None:
        """Return the first entry about a case, or None."""
        return next((e for e in self.entries if e.matches(case_id, self.platform)), None)

    def quarantine(self, case_id: str) -> str | None:
        """Return why a case is not launched, or None. An expired quarantine still holds."""
        entry = self.entry(case_id)
        if entry is None or not entry.quarantine:
            return None
        return f"in quarantine until {entry.expires} for {entry.issue} ({entry.place})"

    def lapsed(self, case_id: str) -> CaseResult | None:
        """Return the result of a case whose quarantine has expired: failed, and never launched."""
        entry = self.entry(case_id)
        if entry is None or not entry.quarantine or not entry.has_expired(self.today):
            return None
        text = f"not launched: {_expired(entry)}"
        return CaseResult(
            case_id=case_id, verdict=Verdict.FAILED, reason=EXPIRED, messages=(text,), leading=(0,)
        )

    def forgiven(self, case_ids: Iterable[str]) -> frozenset[str]:
        """Return the cases whose failure may be known, so that it alone need not end the run."""
        return frozenset(case_id for case_id in case_ids if self.entry(case_id) is not None)

    def judged(self, result: CaseResult) -> CaseResult:
        """Return a result as the ledger sees it; without an entry, and if not run, unchanged."""
        entry = self.entry(result.case_id)
        if entry is None or entry.quarantine:
            return result
        if result.verdict is Verdict.PASSED:
            return _passed(result, entry, expired=entry.has_expired(self.today))
        if result.verdict not in BAD:
            return result
        why_not = self._why_not(result, entry)
        if why_not is not None:
            return result.with_messages(after=(why_not,))
        text = f"known failure until {entry.expires}: {entry.issue}; was {result.verdict}"
        return _with_verdict(result, Verdict.KNOWN, KNOWN_FAILURE, text)

    def _why_not(self, result: CaseResult, entry: KnownFailure) -> str | None:
        """Return why an entry does not excuse a failure, or None."""
        if entry.has_expired(self.today):
            return _expired(entry)
        if result.verdict not in entry.verdicts:
            expected = " or ".join(entry.verdicts)
            return f"{entry.place} knows this case as {expected} ({entry.issue}), not this verdict"
        if entry.cause is not None and entry.cause not in _report(result):
            return f"{entry.place} knows another cause, {entry.cause!r} ({entry.issue})"
        return None


def judged(events: Iterable[Event], ledger: Ledger) -> Iterator[Event]:
    """Yield the events, with results as the ledger sees them."""
    for event in events:
        if isinstance(event, CaseEnded):
            yield dataclasses.replace(event, result=ledger.judged(event.result))
        else:
            yield event


def notes(results: Iterable[CaseResult], refused: Iterable[RefusedCase]) -> list[str]:
    """Return a run's last lines on known failures: what was excused, held back, or out of date."""
    codes = Counter(result.reason for result in results)
    held_back = sum(case.code == QUARANTINED for case in refused)
    lines = {
        f"{codes[KNOWN_FAILURE]} known failure(s), as expected": codes[KNOWN_FAILURE],
        f"{held_back} case(s) in quarantine were not launched": held_back,
        f"{codes[UNEXPECTED]} known failure(s) passed: remove their entries": codes[UNEXPECTED],
        f"{codes[EXPIRED]} case(s) fail for an entry that has expired": codes[EXPIRED],
    }
    return [line for line, count in lines.items() if count]


def _passed(result: CaseResult, entry: KnownFailure, *, expired: bool) -> CaseResult:
    """Return the result of a pass: failed where the entry has expired or rules a pass out."""
    if expired:
        return _with_verdict(result, Verdict.FAILED, EXPIRED, f"passed, but {_expired(entry)}")
    if Verdict.FLAKY in entry.verdicts:
        return result
    text = f"passed, but {entry.place} says that it fails ({entry.issue}): remove the entry"
    return _with_verdict(result, Verdict.FAILED, UNEXPECTED, text)


def _expired(entry: KnownFailure) -> str:
    return (
        f"{entry.place} expired on {entry.expires} ({entry.issue}): "
        "remove the entry, or look again and set another day"
    )


def _with_verdict(result: CaseResult, verdict: Verdict, reason: str, text: str) -> CaseResult:
    """Return the result with another verdict; `text` becomes its first message, and leads."""
    changed = result.with_messages(before=(text,))
    leading = (0, *changed.leading)
    return dataclasses.replace(changed, verdict=verdict, reason=reason, leading=leading)


def _report(result: CaseResult) -> str:
    """Return everything that a result says about its failure: messages, patterns and causes."""
    calls = [call for diagnosis in result.diagnoses for call in diagnosis.calls]
    named = [f"{cause.name}\n{cause.cause}" for call in calls for cause in call.causes]
    patterns = [f"{pattern.name}\n{pattern.text}" for call in calls for pattern in call.patterns]
    return "\n".join([*result.messages, *named, *patterns, result.reason or ""])
