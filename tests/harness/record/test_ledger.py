"""Known failures applied to results: excused, out of date, or held back."""

import datetime

from harness.record.events import CaseEnded, RunStarted
from harness.record.ledger import EXPIRED, KNOWN_FAILURE, QUARANTINED, UNEXPECTED, judged, notes
from harness.record.result import CaseResult, Verdict
from harness.record.run_info import RefusedCase
from tests.harness.record.known import LINK, TODAY, entry, ledger

AFTER = TODAY + datetime.timedelta(days=1)


def result(verdict=Verdict.FAILED, case_id="m:1-tp:2", **fields):
    return CaseResult(case_id=case_id, verdict=verdict, **{"messages": ("off by 3",), **fields})


def test_an_expected_failure_is_known_and_still_says_what_failed():
    known = ledger(entry()).judged(result())
    assert (known.verdict, known.reason) == (Verdict.KNOWN, KNOWN_FAILURE)
    assert LINK in known.messages[0]
    assert "was failed" in known.messages[0]
    assert known.messages[1] == "off by 3"
    assert known.leading[0] == 0


def test_a_pass_fails_unless_the_entry_says_flaky():
    failed = ledger(entry()).judged(result(Verdict.PASSED, messages=()))
    assert (failed.verdict, failed.reason) == (Verdict.FAILED, UNEXPECTED)
    assert "known.yaml:3 says that it fails" in failed.messages[0]
    sporadic = ledger(entry(verdicts=(Verdict.FAILED, Verdict.FLAKY)))
    assert sporadic.judged(result(Verdict.PASSED)).verdict is Verdict.PASSED
    assert sporadic.judged(result(Verdict.FLAKY)).verdict is Verdict.KNOWN


def test_another_verdict_and_another_cause_are_not_excused():
    crashed = ledger(entry()).judged(result(Verdict.CRASHED))
    assert crashed.verdict is Verdict.CRASHED
    assert "knows this case as failed" in crashed.messages[-1]
    with_cause = ledger(entry(cause="swapped"))
    assert with_cause.judged(result()).verdict is Verdict.FAILED
    assert "knows another cause, 'swapped'" in with_cause.judged(result()).messages[-1]
    swapped = result(messages=("gate and up are swapped",))
    assert with_cause.judged(swapped).verdict is Verdict.KNOWN


def test_an_expired_entry_fails_a_failure_and_a_pass():
    late = ledger(entry(), today=AFTER)
    assert late.judged(result()).verdict is Verdict.FAILED
    assert "expired on 2026-11-28" in late.judged(result()).messages[-1]
    passed = late.judged(result(Verdict.PASSED))
    assert (passed.verdict, passed.reason) == (Verdict.FAILED, EXPIRED)


def test_cases_that_no_entry_is_about_and_that_did_not_run_stay_as_they_are():
    known = ledger(entry())
    for other in (result(case_id="m:1"), result(Verdict.INFRA), result(Verdict.NOT_RUN)):
        assert known.judged(other) is other
    assert known.forgiven(["m:1", "m:1-tp:2"]) == {"m:1-tp:2"}


def test_the_first_entry_that_matches_counts():
    both = ledger(entry("*tp:2", verdicts=(Verdict.HUNG,)), entry())
    assert both.judged(result()).verdict is Verdict.FAILED


def test_quarantine_holds_back_and_fails_once_it_has_expired():
    held = ledger(entry(quarantine=True))
    assert (
        held.quarantine("m:1-tp:2") == f"in quarantine until 2026-11-28 for {LINK} (known.yaml:3)"
    )
    assert held.quarantine("m:1") is None
    assert held.lapsed("m:1-tp:2") is None
    lapsed = ledger(entry(quarantine=True), today=AFTER).lapsed("m:1-tp:2")
    assert (lapsed.verdict, lapsed.reason) == (Verdict.FAILED, EXPIRED)
    assert "not launched" in lapsed.messages[0]


def test_events_are_judged_one_by_one_and_notes_count_them():
    events = [
        RunStarted(time=0.0, cases=[]),
        CaseEnded(time=0.0, gang=1, result=result()),
        CaseEnded(time=0.0, gang=1, result=result(Verdict.PASSED, "m:2-tp:2")),
    ]
    first, *ended = judged(events, ledger(entry()))
    assert first is events[0]
    refused = [RefusedCase(case="m:3", code=QUARANTINED, text="x")]
    assert notes((event.result for event in ended), refused) == [
        "1 known failure(s), as expected",
        "1 case(s) in quarantine were not launched",
        "1 known failure(s) passed: remove their entries",
    ]
