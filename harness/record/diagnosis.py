"""What a rank has worked out about its failed calls: how much is wrong, where, why. No torch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """One rank's.

    failed: numbers of the failed calls, of `of`. every_call: whether what failed was looked at in
    all of them. calls: of the first failed ones, plain data as
    `harness.diagnosis.diagnose.explain` gives it, each with its number as "call".
    """

    rank: int
    failed: tuple[int, ...]
    of: int
    every_call: bool = True
    calls: tuple[dict[str, Any], ...]

    def covers(self, call: int, topic: str) -> bool:
        """Tell whether the diagnosis of a call says more than a finding on this topic does."""
        return any(data["call"] == call and topic in data.get("covers", ()) for data in self.calls)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Diagnosis:
        return cls(**{**data, "failed": tuple(data["failed"]), "calls": tuple(data["calls"])})
