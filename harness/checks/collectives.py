"""Check that all ranks entered the same collectives in each call, even where none had to wait.

Ranks that are out of step hang or mix up data at the next collective: the calls end there, and no
other check runs.
"""

from __future__ import annotations

from harness.checks.check import Check, Observation
from harness.record.result import Finding


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Report the difference that ended the calls, if one did; see fixtures.collective_watch."""
    error = observation.out_of_step
    if error is None:
        return ()
    prefix = f"call {error.call + 1}: " if error.call else ""
    text = f"{prefix}collectives differ: {error}"
    return (Finding(check=CHECK.name, call=error.call, text=text, leads=True),)


CHECK = Check(name="collectives", run=findings, by_reference=False, of_calls=False)
