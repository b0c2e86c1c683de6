"""Explain a planted output of one call, as the diagnosis does."""

from __future__ import annotations

import json

from harness.checks import output_rows
from harness.checks.output import judge
from harness.diagnosis.diagnose import explain
from harness.record.diagnosis import STAGE_INTERVAL, CallDiagnosis
from harness.record.result import Verdict
from tests.harness.diagnosis.mistaken import CASE, call_of, scene, with_output

CALL, REFERENCE = call_of()
RIGHT = CALL.answer.out


def findings_of(call, judged):
    return tuple(output_rows.findings_of(call, judged))


def explained(out, case=CASE, rank=0):
    call = with_output(call_of(case, rank)[0], out)
    judged = judge(call.output.out, call.answer)
    assert judged.verdict is Verdict.FAILED
    found = explain(scene(call, case, rank), call, findings_of(call, judged))
    text = json.dumps(found.to_json(), allow_nan=False)
    assert CallDiagnosis.from_json(json.loads(text)) == found
    return found


def names(found):
    return [cause.name for cause in found.causes]


def texts(found):
    """The patterns of the errors; where the first wrong stage may be has its own test."""
    return [pattern.text for pattern in found.patterns if pattern.name != STAGE_INTERVAL]
