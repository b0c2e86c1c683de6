"""Merge the results of a case's ranks into one: every rank counts, the worst decides. No torch."""

from __future__ import annotations

import dataclasses
from typing import Any

from harness.record.agreed_causes import agreed
from harness.record.proof import Outcome, Proof, best
from harness.record.result import CaseResult, RankResult, Verdict, worst


def merge(case_id: str, world_size: int, ranks: list[RankResult], seconds: float) -> CaseResult:
    """Return the result of a case from those of its ranks.

    A rank without a result makes the verdict an error. A pass becomes vacuous if the self-check
    missed a wrong answer on every rank.
    """
    silent = sorted(set(range(world_size)) - {r.rank for r in ranks})
    verdict = worst([r.verdict for r in ranks] + [Verdict.ERROR] * len(silent))
    battery = best(r.battery for r in ranks)
    missed: tuple[str, ...] = ()
    if verdict is Verdict.PASSED:
        missed = _missed(battery)
        verdict = Verdict.VACUOUS if missed else verdict
    result = CaseResult(
        case_id=case_id,
        verdict=verdict,
        seconds=seconds,
        battery=battery,
        diagnoses=agreed([r.diagnosis for r in ranks if r.diagnosis is not None]),
        assumed=next((r.assumed for r in ranks if r.assumed is not None), None),
        router_assumed=next((r.router_assumed for r in ranks if r.router_assumed), None),
        **_messages(ranks),
        **_data(ranks),
    )
    if verdict is not Verdict.PASSED:
        result = dataclasses.replace(result, sketches=())
    before = tuple(f"rank {rank}: sent no result" for rank in silent)
    return result.with_messages(before=before, after=missed)


def _missed(battery: tuple[Proof, ...]) -> tuple[str, ...]:
    """Return a message for each wrong answer that the checks would accept."""
    missed = (proof for proof in battery if proof.outcome is Outcome.MISSED)
    return tuple(f"{proof.name} would pass: {proof.explanation}" for proof in missed)


def _messages(ranks: list[RankResult]) -> dict[str, Any]:
    """Return the fields of a CaseResult that hold messages and indices of messages."""
    grouped = _grouped(ranks)
    return {
        "messages": tuple(text for text, _, _ in grouped),
        "leading": tuple(i for i, (_, leads, _) in enumerate(grouped) if leads),
        "diagnosed": tuple(i for i, (_, _, diagnosed) in enumerate(grouped) if diagnosed),
    }


def _data(ranks: list[RankResult]) -> dict[str, Any]:
    """Return the fields of a CaseResult that merge data of all ranks."""
    return {
        "metrics": _worst([r.metrics for r in ranks]),
        "members": {k: v for r in ranks for k, v in r.members.items()},
        "versions": {k: v for r in ranks for k, v in r.versions.items()},
        "ranks": {str(r.rank): str(r.verdict) for r in sorted(ranks, key=lambda r: r.rank)},
        "phases": _worst([r.seconds for r in ranks]),
        "sketches": tuple(sketch for r in ranks for sketch in r.sketches),
        "kernels": tuple(sorted({line for r in ranks for line in r.kernels})),
    }


def _grouped(ranks: list[RankResult]) -> list[tuple[str, bool, bool]]:
    """Return each message once, prefixed by its ranks; whether it leads; whether diagnosed."""
    groups: dict[tuple[str, bool, bool], list[int]] = {}
    for r in sorted(ranks, key=lambda r: r.rank):
        for finding in r.findings:
            key = (finding.text, finding.leads, r.is_in_diagnosis(finding))
            groups.setdefault(key, []).append(r.rank)
    ordered = sorted(groups.items(), key=lambda group: not group[0][1])
    return [
        (f"rank {','.join(map(str, numbers))}: {text}", leads, diagnosed)
        for (text, leads, diagnosed), numbers in ordered
    ]


def _worst(rows: list[dict[str, float]]) -> dict[str, float]:
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: max(row[key] for row in rows if key in row) for key in keys}
