"""Cases whose self-check caught all that can exist, for the tests of the certificate."""

from __future__ import annotations

from harness.matrix.case import MoETestConfig
from harness.mutants.coverage import MEMBERS
from harness.record.proof import Outcome, Proof
from harness.record.result import CaseResult, Verdict


def case(**fields) -> MoETestConfig:
    plain = {"m": 8, "n": 128, "k": 128, "num_experts": 4, "top_k": 2, "experts": "torch_loop"}
    return MoETestConfig(**{**plain, **fields})


def result(one, verdict=Verdict.PASSED, **words) -> CaseResult:
    """All caught, but for what cannot exist and for `words`."""
    battery = {
        h.name: CAUGHT
        if h.possible(one.layer_spec)
        else (Outcome.NOT_APPLICABLE, "there is one rank only")
        for h in MEMBERS
    }
    proofs = tuple(
        Proof(name=name, outcome=outcome, explanation=why)
        for name, (outcome, why) in {**battery, **words}.items()
    )
    return CaseResult(case_id=one.id, verdict=verdict, battery=proofs)


CAUGHT = (Outcome.CAUGHT, "")
NONE = (Outcome.NOT_APPLICABLE, "the layer has no shared experts")
