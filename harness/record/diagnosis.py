"""Define what a rank reports about its failed calls: how much is wrong, where, and why. No torch.

In JSON the facts of a call are among its other keys, and unknown values have no key.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from harness.record.plain_data import read

IN_THE_WRONG = "in the wrong"  # rows or columns, where a cause holds that the others contradict
STAGE_INTERVAL = "stage_interval"  # of a pattern: the stages of which one is wrong first
Number = float | str  # JSON has no NaN and no infinity: `nan`, `inf`, `-inf`


@dataclass(frozen=True, kw_only=True)
class Share:
    """Count how many are wrong, of how many. numbers: which ones, as text, if they are numbered."""

    wrong: int
    of: int
    numbers: str = ""


@dataclass(frozen=True, kw_only=True)
class Element:
    """Describe a wrong element. over_rms: its error over its row's rms; None if the rms is 0."""

    row: int
    column: int
    actual: Number
    expected: Number
    over_rms: float | None = None


@dataclass(frozen=True, kw_only=True)
class Values:
    """Describe one side of the comparison. min, max: of finite values; None if there are none."""

    min: Number | None
    max: Number | None
    nan: int
    inf: int
    zero_rows: str  # rows that are all zero and should not be
    unwritten_rows: str  # rows that are all NaN


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Describe how much of an output is wrong and where. first: in the order of rows."""

    rows: Share
    columns: Share
    elements: Share
    first: Element | None = None
    worst: Element | None = None
    actual: Values
    expected: Values
    rel_rms: float
    one_minus_cosine: float

    def to_json(self) -> dict[str, Any]:
        data = dataclasses.asdict(self)
        del data["elements"]["numbers"]
        for name in ("first", "worst"):
            data[name] = _known(data[name] or {})
        return {name: value for name, value in data.items() if value != {}}


@dataclass(frozen=True, kw_only=True)
class Pattern:
    """Describe a pattern. name: for programs. text: a clause. data: its values, as JSON values."""

    name: str
    text: str
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NamedCause:
    """Name a mistake that explains the output.

    residual: unexplained fraction of the wrong rows' error. where: empty, or a clause that limits
    the mistake to the wrong rows or columns, if the others are correct.
    """

    name: str
    cause: str
    residual: float
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class StageFinding:
    """Describe a stage that differs from what the previous stage gives.

    bad, of: elements that differ, and elements compared. where: of the first that differs its row,
    column, both values and the tolerance ("allowed"); of all that differ the rows (at most
    16), the first and last column, and what else the stage knows: "experts" (global ids),
    "tokens" (gathered rows), "ranks".
    """

    stage: str
    text: str
    bad: int
    of: int
    where: dict[str, Any]

    def __str__(self) -> str:
        return f"stage {self.stage}: {self.text}"


@dataclass(frozen=True, kw_only=True)
class CallDiagnosis:
    """Explain one failed call.

    call: its number, from 0. fault: why there is no diagnosis; all other fields are then unset.
    covers: topics of findings that this diagnosis reports in more detail. output: whether the
    output by itself is wrong. metrics: of the findings. stages: those that depart, in order.
    experts: expert -> (wrong rows, rows). causes: those that fit, best first. weaker: what holds,
    too, and says less. contradicted: what fits here, but not the other calls or ranks of the case.
    tried: number of known mistakes tried; None if there was no search. closest: the smallest
    residual. faults: mistakes that failed to compute. picture: name of its file.
    """

    call: int
    fault: str | None = None
    tokens: int = 0
    covers: tuple[str, ...] = ()
    output: bool = False
    metrics: dict[str, Number] = field(default_factory=dict)
    stages: tuple[StageFinding, ...] = ()
    facts: Facts | None = None
    experts: dict[str, tuple[int, int]] = field(default_factory=dict)
    patterns: tuple[Pattern, ...] = ()
    causes: tuple[NamedCause, ...] = ()
    weaker: tuple[NamedCause, ...] = ()
    contradicted: tuple[NamedCause, ...] = ()
    tried: int | None = None
    not_applicable: int = 0
    untried: int = 0
    closest: Number | None = None
    faults: tuple[str, ...] = ()
    picture: str | None = None
    picture_fault: str | None = None

    @property
    def wrong_rows(self) -> int:
        return 0 if self.facts is None else self.facts.rows.wrong

    def to_json(self) -> dict[str, Any]:
        if self.fault is not None:
            return {"call": self.call, "fault": self.fault}
        data = dataclasses.asdict(dataclasses.replace(self, facts=None))
        for name in ("weaker", "contradicted"):
            if not data[name]:
                del data[name]
        if self.tried is None:
            for name in ("not_applicable", "untried", "faults"):
                del data[name]
        return {**_known(data), **({} if self.facts is None else self.facts.to_json())}

    @classmethod
    def from_json(cls, data: object) -> CallDiagnosis:
        """Return a diagnosis. Raises ValueError that names the value that does not fit."""
        call = read(cls, data)
        facts = read(Facts, data) if isinstance(data, dict) and "rows" in data else None
        return dataclasses.replace(call, facts=facts)


def _known(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Explain the failed calls of one rank.

    failed: numbers of the failed calls, of `of` calls. every_call: whether all calls were examined
    for what failed. calls: diagnoses of the first failed calls.
    """

    rank: int
    failed: tuple[int, ...]
    of: int
    every_call: bool = True
    calls: tuple[CallDiagnosis, ...]

    def covers(self, call: int, topic: str) -> bool:
        """Return whether the diagnosis of a call reports a topic in more detail than findings."""
        return any(known.call == call and topic in known.covers for known in self.calls)

    def to_json(self) -> dict[str, Any]:
        data = dataclasses.asdict(dataclasses.replace(self, calls=()))
        return {**data, "calls": [call.to_json() for call in self.calls]}

    @classmethod
    def from_json(cls, data: object) -> Diagnosis:
        """Return a diagnosis. Raises ValueError that names the value that does not fit."""
        diagnosis = read(cls, data, "diagnosis")
        assert isinstance(data, dict)
        calls = tuple(CallDiagnosis.from_json(call) for call in data["calls"])
        return dataclasses.replace(diagnosis, calls=calls)
