"""What a rank says of a case, and how the ranks' words become one verdict. No torch.

All of it is plain data, so that it goes through JSON unchanged.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from harness.record.diagnosis import Diagnosis
from harness.record.proof import Outcome, Proof, best

if TYPE_CHECKING:
    from collections.abc import Iterable


class Verdict(StrEnum):
    """How a case ended; each point of a matrix ends in exactly one."""

    PASSED = "passed"
    FAILED = "failed"  # wrong numbers
    ERROR = "error"  # an exception
    CRASHED = "crashed"  # a rank's process ended by itself
    HUNG = "hung"  # over its time limit
    SKIPPED = "skipped"  # refused, with a reason
    VACUOUS = "vacuous"  # the check could not have failed
    FLAKY = "flaky"  # failed, then passed in a fresh gang
    INFRA = "infra"  # the machine's fault
    NOT_RUN = "not_run"  # the run ended before it


# Of two ranks' verdicts the one further left decides.
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
    """Return the one that decides; PASSED where there is none."""
    return min(verdicts, key=SEVERITY.index, default=Verdict.PASSED)


class Topic(StrEnum):
    """What a finding is about, where a diagnosis says the same with more detail."""

    ROWS = "rows"  # which rows are wrong
    VALUES = "values"  # ranges of values, errors over all
    STAGES = "stages"  # a stage of the layer


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check says of one call.

    verdict: what it makes of the call; PASSED: evidence only, never shown. leads: stands above all
    else, likely causes too. metrics, detail: for the diagnosis on the same rank, not recorded.
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
    """What one rank found. `findings` hold the texts for people; the rest is for machines."""

    rank: int
    verdict: Verdict
    findings: tuple[Finding, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)  # see checks.output.METRICS
    seconds: dict[str, float] = field(
        default_factory=dict
    )  # by phase: inputs, layer, reference, judge
    members: dict[str, str] = field(default_factory=dict)  # family -> member that really ran
    sketches: tuple[dict[str, Any], ...] = ()  # see agree.py: outputs of some tokens, compressed
    battery: tuple[Proof, ...] = ()  # the self-check: of each wrong answer, when passed
    diagnosis: Diagnosis | None = None  # what is wrong, when failed
    poisoned: bool = False  # whether later cases must not run in this process
    unclear: bool = False  # whether an earlier case may have done it, and nothing was judged

    @property
    def messages(self) -> tuple[str, ...]:
        """The findings' texts."""
        return tuple(finding.text for finding in self.findings)

    def is_in_diagnosis(self, finding: Finding) -> bool:
        """Tell whether this rank's diagnosis says the same with more detail."""
        if self.diagnosis is None or finding.topic is None:
            return False
        return self.diagnosis.covers(finding.call, finding.topic)

    def to_json(self) -> dict[str, Any]:
        plain = dataclasses.asdict(dataclasses.replace(self, findings=()))
        return {**plain, "findings": [finding.to_json() for finding in self.findings]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RankResult:
        findings = tuple(Finding.from_json(one) for one in data["findings"])
        battery = tuple(Proof.from_json(one) for one in data["battery"])
        changed: dict[str, Any] = {
            "verdict": Verdict(data["verdict"]),
            "findings": findings,
            "battery": battery,
        }
        told = data["diagnosis"]
        changed["diagnosis"] = None if told is None else Diagnosis.from_json(told)
        return cls(**{**data, **changed, "sketches": tuple(data["sketches"])})


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """One case's end, over all of its ranks."""

    case_id: str
    verdict: Verdict
    seconds: float = 0.0  # wall time of the case, without the gang's start
    reason: str | None = None  # code, for skipped, crashed, hung, infra and not_run
    messages: tuple[str, ...] = ()  # each begins with the rank or ranks that it speaks of
    leading: tuple[int, ...] = ()  # numbers of the messages that stand above all else
    diagnosed: tuple[int, ...] = ()  # numbers of those that the diagnoses say better
    metrics: dict[str, float] = field(default_factory=dict)  # the worst over ranks
    members: dict[str, str] = field(default_factory=dict)
    ranks: dict[str, str] = field(default_factory=dict)  # rank -> its own verdict
    phases: dict[str, float] = field(default_factory=dict)  # the slowest rank's seconds by phase
    log: str | None = None  # file in the run folder with the ranks' output
    sketches: tuple[dict[str, Any], ...] = ()  # of all ranks, when passed; see agree.py
    battery: tuple[Proof, ...] = ()  # the self-check over all ranks, see `proof.best`
    diagnoses: tuple[Diagnosis, ...] = ()  # of each failed rank
    attempt: int = 1  # 2 and more: tried again in a fresh gang

    def with_messages(
        self, *, before: tuple[str, ...] = (), after: tuple[str, ...] = ()
    ) -> CaseResult:
        """Return the same with more messages; the numbers of the others stay theirs."""
        return dataclasses.replace(
            self,
            messages=(*before, *self.messages, *after),
            leading=tuple(number + len(before) for number in self.leading),
            diagnosed=tuple(number + len(before) for number in self.diagnosed),
        )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CaseResult:
        lists = ("messages", "leading", "diagnosed", "sketches")
        changed: dict[str, Any] = {name: tuple(data[name]) for name in lists if name in data}
        changed["battery"] = tuple(Proof.from_json(one) for one in data.get("battery", ()))
        changed["diagnoses"] = tuple(Diagnosis.from_json(one) for one in data.get("diagnoses", ()))
        return cls(**{**data, **changed, "verdict": Verdict(data["verdict"])})


def merge(case_id: str, world_size: int, ranks: list[RankResult], seconds: float) -> CaseResult:
    """One result from every rank's. A rank that said nothing makes it an error."""
    silent = sorted(set(range(world_size)) - {r.rank for r in ranks})
    verdicts = [r.verdict for r in ranks] + [Verdict.ERROR] * len(silent)
    grouped = _grouped(ranks)
    verdict = worst(verdicts)
    battery = best(r.battery for r in ranks)
    missed = [proof for proof in battery if proof.outcome is Outcome.MISSED]
    after: tuple[str, ...] = ()
    if verdict is Verdict.PASSED and missed:
        verdict = Verdict.VACUOUS
        after = tuple(f"{proof.name} would pass: {proof.why}" for proof in missed)
    passed = verdict is Verdict.PASSED
    result = CaseResult(
        case_id=case_id,
        verdict=verdict,
        seconds=seconds,
        messages=tuple(text for text, _, _ in grouped),
        leading=tuple(i for i, (_, leads, _) in enumerate(grouped) if leads),
        diagnosed=tuple(i for i, (_, _, diagnosed) in enumerate(grouped) if diagnosed),
        metrics=_worst([r.metrics for r in ranks]),
        members={k: v for r in ranks for k, v in r.members.items()},
        ranks={str(r.rank): str(r.verdict) for r in sorted(ranks, key=lambda r: r.rank)},
        phases=_worst([r.seconds for r in ranks]),
        sketches=tuple(sketch for r in ranks for sketch in r.sketches) if passed else (),
        battery=battery,
        diagnoses=tuple(r.diagnosis for r in ranks if r.diagnosis is not None),
    )
    before = tuple(f"rank {rank}: said nothing" for rank in silent)
    return result.with_messages(before=before, after=after)


def _grouped(ranks: list[RankResult]) -> list[tuple[str, bool, bool]]:
    """Return each message once, with the ranks that said it; whether it leads, is diagnosed."""
    groups: dict[tuple[str, bool, bool], list[int]] = {}
    for r in sorted(ranks, key=lambda r: r.rank):
        for finding in r.findings:
            key = (finding.text, finding.leads, r.is_in_diagnosis(finding))
            groups.setdefault(key, []).append(r.rank)
    ordered = sorted(groups.items(), key=lambda group: not group[0][1])
    return [
        (f"rank {','.join(map(str, who))}: {text}", leads, diagnosed)
        for (text, leads, diagnosed), who in ordered
    ]


def _worst(rows: list[dict[str, float]]) -> dict[str, float]:
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: max(row[key] for row in rows if key in row) for key in keys}
