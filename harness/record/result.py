"""The result of a case on a rank, and how the ranks' results become one verdict. No torch.

Everything is plain data that JSON represents unchanged.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from harness.record.agreed_causes import agreed
from harness.record.diagnosis import Diagnosis
from harness.record.proof import Outcome, Proof, best

if TYPE_CHECKING:
    from collections.abc import Iterable

PUT_BACK = "suspect"  # the reason of a result that the engine takes back: the case runs again


class Verdict(StrEnum):
    """How a case ended; each point of a matrix ends in exactly one."""

    PASSED = "passed"
    FAILED = "failed"  # wrong numbers
    ERROR = "error"  # an exception
    CRASHED = "crashed"  # a rank's process ended unexpectedly
    HUNG = "hung"  # over its time limit
    SKIPPED = "skipped"  # refused, with a reason
    VACUOUS = "vacuous"  # the check could not have failed
    FLAKY = "flaky"  # failed, then passed in a fresh gang
    KNOWN = "known"  # failed as configs/known_failures.yaml expects
    INFRA = "infra"  # the machine failed, not the code under test
    NOT_RUN = "not_run"  # the run ended before the case started


# The first of these among the ranks' verdicts is the verdict of the case.
SEVERITY = (
    Verdict.CRASHED,
    Verdict.HUNG,
    Verdict.ERROR,
    Verdict.FAILED,
    Verdict.INFRA,
    Verdict.VACUOUS,
    Verdict.PASSED,
)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the most severe verdict; PASSED if there is none."""
    return min(verdicts, key=SEVERITY.index, default=Verdict.PASSED)


class Topic(StrEnum):
    """The subject of a finding that a diagnosis may report in more detail."""

    ROWS = "rows"  # which rows are wrong
    VALUES = "values"  # ranges of values, errors over all
    STAGES = "stages"  # a stage of the layer


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check reports about one call.

    verdict: of the call; PASSED for evidence that is never shown. leads: shown before all other
    findings and likely causes. metrics, detail: for the diagnosis on the same rank, not recorded.
    """

    check: str
    text: str = ""
    call: int = 0
    stage: str | None = None
    verdict: Verdict = Verdict.FAILED
    topic: Topic | None = None
    leads: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    detail: Any = None

    def to_json(self) -> dict[str, Any]:
        data = dataclasses.asdict(dataclasses.replace(self, metrics={}, detail=None))
        return {name: value for name, value in data.items() if name not in ("metrics", "detail")}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Finding:
        topic = None if data["topic"] is None else Topic(data["topic"])
        return cls(**{**data, "verdict": Verdict(data["verdict"]), "topic": topic})


@dataclass(frozen=True, kw_only=True)
class RankResult:
    """The result of a case on one rank. People read `findings`; the other fields are data."""

    rank: int
    verdict: Verdict
    findings: tuple[Finding, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)  # see checks.output.METRICS
    # By phase: inputs, layer, reference, judge
    seconds: dict[str, float] = field(default_factory=dict)
    members: dict[str, str] = field(default_factory=dict)  # family -> member that ran
    # Package -> version, of those that the members need
    versions: dict[str, str] = field(default_factory=dict)
    sketches: tuple[dict[str, Any], ...] = ()  # compressed outputs, see cross_case.py
    battery: tuple[Proof, ...] = ()  # the self-check's proofs, if passed
    diagnosis: Diagnosis | None = None  # what is wrong, if failed
    assumed: str | None = None  # the numerics that were assumed; None if the row states all
    # Launched kernels of ours with their compile-time arguments, see moe.kernels.specialisation
    kernels: tuple[str, ...] = ()
    poisoned: bool = False  # whether later cases must not run in this process
    unclear: bool = False  # whether an earlier case may have altered it; nothing was judged

    @property
    def messages(self) -> tuple[str, ...]:
        """Return the texts of the findings."""
        return tuple(finding.text for finding in self.findings)

    def is_in_diagnosis(self, finding: Finding) -> bool:
        """Return whether this rank's diagnosis reports the finding in more detail."""
        if self.diagnosis is None or finding.topic is None:
            return False
        return self.diagnosis.covers(finding.call, finding.topic)

    def to_json(self) -> dict[str, Any]:
        plain = dataclasses.asdict(dataclasses.replace(self, findings=(), diagnosis=None))
        diagnosis = None if self.diagnosis is None else self.diagnosis.to_json()
        findings = [finding.to_json() for finding in self.findings]
        return {**plain, "findings": findings, "diagnosis": diagnosis}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RankResult:
        findings = tuple(Finding.from_json(item) for item in data["findings"])
        battery = tuple(Proof.from_json(item) for item in data["battery"])
        changed: dict[str, Any] = {
            "verdict": Verdict(data["verdict"]),
            "findings": findings,
            "battery": battery,
        }
        diagnosis = data["diagnosis"]
        changed["diagnosis"] = None if diagnosis is None else Diagnosis.from_json(diagnosis)
        lists = {name: tuple(data[name]) for name in ("sketches", "kernels")}
        return cls(**{**data, **changed, **lists})


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """An earlier try of a case that ran again in a fresh gang. reason: its failure in one line."""

    verdict: Verdict
    seconds: float
    reason: str

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Attempt:
        return cls(**{**data, "verdict": Verdict(data["verdict"])})


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """The result of a case over all of its ranks."""

    case_id: str
    verdict: Verdict
    seconds: float = 0.0  # wall time of the case, without the gang's start
    reason: str | None = None  # code, for skipped, crashed, hung, infra and not_run
    messages: tuple[str, ...] = ()  # each begins with the ranks that it is about
    leading: tuple[int, ...] = ()  # indices of messages that are shown first
    diagnosed: tuple[int, ...] = ()  # indices of messages that a diagnosis reports in more detail
    metrics: dict[str, float] = field(default_factory=dict)  # the worst over ranks
    members: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    ranks: dict[str, str] = field(default_factory=dict)  # rank -> verdict
    phases: dict[str, float] = field(default_factory=dict)  # the slowest rank's seconds by phase
    log: str | None = None  # file in the run folder with the ranks' output
    sketches: tuple[dict[str, Any], ...] = ()  # of all ranks, if passed; see cross_case.py
    battery: tuple[Proof, ...] = ()  # the self-check over all ranks, see `proof.best`
    diagnoses: tuple[Diagnosis, ...] = ()  # of each failed rank
    assumed: str | None = None  # the numerics that were assumed; None if the row states all
    kernels: tuple[str, ...] = ()  # launched by any rank, see moe.kernels.specialisation
    attempt: int = 1  # 2 and more: run again in a fresh gang
    earlier: tuple[Attempt, ...] = ()  # attempts before this one, the first first

    def with_messages(
        self, *, before: tuple[str, ...] = (), after: tuple[str, ...] = ()
    ) -> CaseResult:
        """Return the result with more messages; `leading` and `diagnosed` are adjusted."""
        return dataclasses.replace(
            self,
            messages=(*before, *self.messages, *after),
            leading=tuple(number + len(before) for number in self.leading),
            diagnosed=tuple(number + len(before) for number in self.diagnosed),
        )

    def to_json(self) -> dict[str, Any]:
        plain = dataclasses.asdict(dataclasses.replace(self, diagnoses=()))
        return {**plain, "diagnoses": [diagnosis.to_json() for diagnosis in self.diagnoses]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CaseResult:
        lists = ("messages", "leading", "diagnosed", "sketches", "kernels")
        changed: dict[str, Any] = {name: tuple(data[name]) for name in lists if name in data}
        changed["battery"] = tuple(Proof.from_json(item) for item in data.get("battery", ()))
        changed["earlier"] = tuple(Attempt.from_json(item) for item in data.get("earlier", ()))
        diagnoses = data.get("diagnoses", ())
        changed["diagnoses"] = tuple(Diagnosis.from_json(item) for item in diagnoses)
        return cls(**{**data, **changed, "verdict": Verdict(data["verdict"])})


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
