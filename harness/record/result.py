"""The result of a case on one rank, and the one on all ranks, which `rank_merge` makes. No torch.

Everything is plain data that JSON represents unchanged.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from harness.matrix.case import MoETestConfig
from harness.record.diagnosis import Diagnosis
from harness.record.proof import Proof

if TYPE_CHECKING:
    from collections.abc import Iterable

PUT_BACK = "suspect"  # the reason of a result that the engine takes back: the case runs again
NOT_THE_SAME = "not deterministic"  # how the message of a repeated call that differs begins


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
    router_assumed: str | None = None  # roundings of a silent router, unless it is right without
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
    router_assumed: str | None = None  # roundings of a silent router, unless it is right without
    kernels: tuple[str, ...] = ()  # launched by any rank, see moe.kernels.specialisation
    attempt: int = 1  # 2 and more: run again in a fresh gang
    earlier: tuple[Attempt, ...] = ()  # attempts before this one, the first first
    seed: int | None = None  # that was judged, where inputs of the case's own could show nothing

    @property
    def judged_case(self) -> MoETestConfig:
        """Return the case whose inputs were judged: with another seed, if one was needed."""
        case = MoETestConfig.from_id(self.case_id)
        return case if self.seed is None else case.replace(seed=self.seed)

    @property
    def judged_id(self) -> str:
        """Return the id of that case."""
        return self.case_id if self.seed is None else self.judged_case.id

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
