"""Failed cases of four ranks, for the tests of what is said of a failure."""

from __future__ import annotations

import copy
from typing import Any

from harness.record.diagnosis import CallDiagnosis, Diagnosis
from harness.record.rank_merge import merge
from harness.record.result import CaseResult, RankResult, Verdict

CASE = "m:32-n:256-k:256-e:8-topk:2-experts:torch_loop-dp:2-tp:2-ep"
REPEAT = f"repeat: python -m harness run --case {CASE}"
FACTS: dict[str, Any] = {
    "rows": {"wrong": 8, "of": 32, "numbers": "3, 7-13"},
    "columns": {"wrong": 128, "of": 256, "numbers": "128-255"},
    "elements": {"wrong": 1000, "of": 8192},
    "first": {"row": 3, "column": 128, "actual": "nan", "expected": 0.25},
    "worst": {"row": 9, "column": 200, "actual": 3.5, "expected": -0.5, "over_rms": 7.123},
    "actual": {
        "min": -3.0,
        "max": 3.5,
        "nan": 2,
        "inf": 1,
        "zero_rows": "7",
        "unwritten_rows": "3, 8",
    },
    "expected": {
        "min": -2.0,
        "max": 2.5,
        "nan": 0,
        "inf": 0,
        "zero_rows": "",
        "unwritten_rows": "",
    },
    "rel_rms": 0.5,
    "one_minus_cosine": 0.125,
}
CAUSE = {"name": "doubled", "cause": "the output is doubled", "residual": 0.004, "where": ""}


def call(number: int = 0, **changes: Any) -> dict[str, Any]:
    base = {
        "call": number,
        "tokens": 32,
        "covers": [],
        "metrics": {"bound_used": 12.34},
        "stages": [],
        **copy.deepcopy(FACTS),
        "experts": {"4": [5, 5], "5": [3, 3], "1": [1, 6]},
        "patterns": [{"name": "experts", "text": "all wrong rows: experts 4-7", "data": {}}],
        "causes": [dict(CAUSE)],
        "tried": 40,
        "closest": 0.004,
        "faults": [],
    }
    return {**base, **changes}


def result(
    diagnoses: dict[int, list[dict[str, Any]]], of: int = 2, findings: Any = (), **changes: Any
) -> CaseResult:
    """A failed case of four ranks; the other ranks passed."""
    made = []
    for rank in range(4):
        calls = diagnoses.get(rank, [])
        failed = tuple(c["call"] for c in calls)
        told = tuple(CallDiagnosis.from_json(c) for c in calls)
        made.append(
            RankResult(
                rank=rank,
                verdict=Verdict.FAILED if calls else Verdict.PASSED,
                findings=tuple(findings) if calls else (),
                diagnosis=Diagnosis(rank=rank, failed=failed, of=of, calls=told) if calls else None,
            )
        )
    merged = merge(CASE, 4, made, 1.0)
    return CaseResult.from_json({**merged.to_json(), **changes})
