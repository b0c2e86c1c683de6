"""Check that the layer wrote neither past its buffers nor to its inputs."""

from __future__ import annotations

from harness.checks.check import Check, Observation, call_prefix
from harness.record.result import Finding


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Report the violations recorded after each call, see `harness.fixtures.run_calls`."""
    return tuple(
        Finding(check=CHECK.name, call=call.number, text=f"{call_prefix(call)}memory: {line}")
        for call in observation.calls
        for line in call.broken
    )


CHECK = Check(name="memory", run=findings, by_reference=False)
