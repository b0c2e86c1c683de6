"""An entry of the file of known failures, for tests."""

import datetime

from harness.record.known_failures import KnownFailure
from harness.record.ledger import Ledger
from harness.record.result import Verdict

TODAY = datetime.date(2026, 11, 28)
LINK = "https://host/project/issues/7"


def entry(pattern="*tp:2*", **changes):
    fields = {
        "issue": LINK,
        "expires": TODAY,
        "place": "known.yaml:3",
        "verdicts": () if changes.get("quarantine") else (Verdict.FAILED,),
        **changes,
    }
    return KnownFailure(pattern=pattern, **fields)


def ledger(*entries, today=TODAY):
    return Ledger(entries=entries, platform="cpu", today=today)
