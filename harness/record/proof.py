"""Results of a case's self-check: for each wrong answer, whether the checks would reject it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Outcome(StrEnum):
    """The outcome for a wrong answer, the best first."""

    CAUGHT = "caught"
    MISSED = "missed"
    NOT_APPLICABLE = "not_applicable"


ORDER = tuple(Outcome)


@dataclass(frozen=True, kw_only=True)
class Proof:
    """Hold the outcome of the checks for one wrong answer.

    explanation: for a missed one, the change of inputs that would reveal it; for one that is not
    applicable, why it is not wrong in this case; otherwise empty.
    """

    name: str
    outcome: Outcome
    explanation: str = ""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Proof:
        return cls(**{**data, "outcome": Outcome(data["outcome"])})


def best(ranks: Iterable[Sequence[Proof]]) -> tuple[Proof, ...]:
    """Return each wrong answer's proof over all ranks: one rank that catches it is enough."""
    best_proofs: dict[str, Proof] = {}
    for proof in (proof for proofs in ranks for proof in proofs):
        previous = best_proofs.get(proof.name, proof)
        best_proofs[proof.name] = min(previous, proof, key=lambda p: ORDER.index(p.outcome))
    return tuple(best_proofs.values())
