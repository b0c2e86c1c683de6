"""Whether a layer's output is contiguous, as the kernels that follow it take it to be."""

from harness.checks.check import Check, call_prefix
from harness.record.result import Finding


def findings(observation):
    return tuple(
        Finding(check="contiguous", call=call.number, text=text(call))
        for call in observation.calls
        if not call.returned.is_contiguous()
    )


def text(call):
    return (
        f"{call_prefix(call)}the output is not contiguous: its strides are {call.returned.stride()}"
    )


CHECK = Check(name="contiguous", run=findings, phase="contiguous")
