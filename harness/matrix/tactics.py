"""Put each tactic of a case's experts backend in place of `tactic: all`. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moe.experts import EXPERTS
from moe.layers import OWN
from moe.oracle import AUTO
from moe.spec import ALL_TACTICS, tactics_of

if TYPE_CHECKING:
    from harness.matrix.case import MoETestConfig


def each_tactic(case: MoETestConfig) -> tuple[MoETestConfig, ...]:
    """Return the case once for each tactic, or as it is if it names one.

    A case whose backend has no tactics, or is not known before the plan, also stays as it is: the
    plan refuses it with the reason.
    """
    if case.tactic != ALL_TACTICS or case.experts in (AUTO, OWN):
        return (case,)
    names = tactics_of(EXPERTS.row(case.experts).needs.tactics, case.layer_spec)
    return tuple(case.replace(tactic=name) for name in names) or (case,)
