"""What a rank says of a case, and how the ranks' words become one verdict. No torch.

All of it is plain data, so that it goes through JSON unchanged.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


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


# What becomes of a wrong answer that is put to the check: "caught", "missed: the input change
# that would cure it", "not_applicable: why it is no wrong answer here".
CAUGHT, MISSED, NOT_APPLICABLE = PROOFS = ("caught", "missed", "not_applicable")


@dataclass(frozen=True, kw_only=True)
class RankResult:
    """What one rank found. `messages` are for people; `metrics` and the rest for machines."""

    rank: int
    verdict: Verdict
    messages: tuple[str, ...] = ()
    metrics: dict[str, float] = field(default_factory=dict)  # see compare.METRICS
    seconds: dict[str, float] = field(
        default_factory=dict
    )  # by phase: inputs, layer, reference, judge
    members: dict[str, str] = field(default_factory=dict)  # family -> member that really ran
    sketches: tuple[dict[str, Any], ...] = ()  # see agree.py: outputs of some tokens, compressed
    battery: dict[str, str] = field(default_factory=dict)  # wrong answer -> one of PROOFS
    diagnosis: dict[str, Any] = field(default_factory=dict)  # what is wrong, when failed
    poisoned: bool = False  # whether later cases must not run in this process

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RankResult:
        changed = {"verdict": Verdict(data["verdict"]), "messages": tuple(data["messages"])}
        return cls(**{**data, **changed, "sketches": tuple(data["sketches"])})


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """One case's end, over all of its ranks."""

    case_id: str
    verdict: Verdict
    seconds: float = 0.0  # wall time of the case, without the gang's start
    reason: str | None = None  # code, for skipped, crashed, hung, infra and not_run
    messages: tuple[str, ...] = ()  # each begins with the rank or ranks that it speaks of
    metrics: dict[str, float] = field(default_factory=dict)  # the worst over ranks
    members: dict[str, str] = field(default_factory=dict)
    ranks: dict[str, str] = field(default_factory=dict)  # rank -> its own verdict
    phases: dict[str, float] = field(default_factory=dict)  # the slowest rank's seconds by phase
    log: str | None = None  # file in the run folder with the ranks' output
    sketches: tuple[dict[str, Any], ...] = ()  # of all ranks, when passed; see agree.py
    battery: dict[str, str] = field(default_factory=dict)  # over ranks: see `_proofs`
    diagnoses: tuple[dict[str, Any], ...] = ()  # of each failed rank, with its "rank"
    attempt: int = 1  # 2 and more: tried again in a fresh gang

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> CaseResult:
        lists = ("messages", "sketches", "diagnoses")
        changed = {name: tuple(data[name]) for name in lists if name in data}
        return cls(**{**data, **changed, "verdict": Verdict(data["verdict"])})


def merge(case_id: str, world_size: int, ranks: list[RankResult], seconds: float) -> CaseResult:
    """One result from every rank's. A rank that said nothing makes it an error."""
    silent = sorted(set(range(world_size)) - {r.rank for r in ranks})
    verdicts = [r.verdict for r in ranks] + [Verdict.ERROR] * len(silent)
    messages = [f"rank {rank}: said nothing" for rank in silent]
    messages += _grouped(ranks)
    verdict = min(verdicts, key=SEVERITY.index)
    battery = _proofs([r.battery for r in ranks])
    missed = [name for name, word in battery.items() if word.startswith(MISSED)]
    if verdict is Verdict.PASSED and missed:
        verdict = Verdict.VACUOUS
        messages += [f"{name} would pass: {battery[name].partition(': ')[2]}" for name in missed]
    passed = verdict is Verdict.PASSED
    return CaseResult(
        case_id=case_id,
        verdict=verdict,
        seconds=seconds,
        messages=tuple(messages),
        metrics=_worst([r.metrics for r in ranks]),
        members={k: v for r in ranks for k, v in r.members.items()},
        ranks={str(r.rank): str(r.verdict) for r in sorted(ranks, key=lambda r: r.rank)},
        phases=_worst([r.seconds for r in ranks]),
        sketches=tuple(sketch for r in ranks for sketch in r.sketches) if passed else (),
        battery=battery,
        diagnoses=tuple({"rank": r.rank, **r.diagnosis} for r in ranks if r.diagnosis),
    )


def _proofs(ranks: list[dict[str, str]]) -> dict[str, str]:
    """Each wrong answer's word over all ranks: one rank that catches it is enough."""
    found: dict[str, str] = {}
    for battery in ranks:
        for name, word in battery.items():
            held = found.get(name, NOT_APPLICABLE)
            found[name] = min(held, word, key=lambda w: PROOFS.index(w.partition(":")[0]))
    return found


def _grouped(ranks: list[RankResult]) -> list[str]:
    """Each message once, with the ranks that said it."""
    said: dict[str, list[int]] = {}
    for r in sorted(ranks, key=lambda r: r.rank):
        for message in r.messages:
            said.setdefault(message, []).append(r.rank)
    return [f"rank {','.join(map(str, who))}: {message}" for message, who in said.items()]


def _worst(rows: list[dict[str, float]]) -> dict[str, float]:
    keys = dict.fromkeys(key for row in rows for key in row)
    return {key: max(row[key] for row in rows if key in row) for key in keys}
