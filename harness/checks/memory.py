"""Whether the layer wrote only where it may: not beyond its buffers, not on its inputs."""

from __future__ import annotations

from harness.checks.check import Check, Observation, where
from harness.record.result import Finding


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Report what was seen right after each call, see `harness.fixtures.run_calls`."""
    return tuple(
        Finding(check=CHECK.name, call=call.number, text=f"{where(call)}memory: {line}")
        for call in observation.calls
        for line in call.broken
    )


CHECK = Check(name="memory", run=findings)
