"""Check that the output has the layer's dtype."""

from __future__ import annotations

from harness.checks.check import Check, Observation, call_prefix
from harness.record.result import Finding
from moe.types import TORCH_DTYPE


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Compare each call's dtype with the case's."""
    expected = TORCH_DTYPE[observation.subject.case.dtype]
    return tuple(
        Finding(
            check=CHECK.name,
            call=call.number,
            text=f"{call_prefix(call)}output: dtype {call.output.out.dtype}, expected {expected}",
        )
        for call in observation.calls
        if call.output.out.dtype != expected
    )


CHECK = Check(name="output_dtype", run=findings, by_reference=False)
