"""Check that a token's bits do not depend on the other tokens of a call, if the members claim it.

Serving stacks rely on it where the same prompt must give the same text at any load. It does not
follow from determinism: a kernel that splits its sums by the number of tokens repeats every call
bit for bit. So the last token of the first call is passed again, alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.checks.bits import differing_elements
from harness.checks.check import Check, Observation
from harness.fixtures.layer_under_test import row_under_test
from harness.fixtures.run_calls import copied
from harness.fixtures.undefined_rows import judged_output
from harness.record.result import Finding
from moe.all2all import ALL2ALL
from moe.formats import FORMATS
from moe.layers import COMPOSED

if TYPE_CHECKING:
    from torch import Tensor

    from harness.matrix.case import MoETestConfig

LAST = slice(-1, None)


def is_claimed(case: MoETestConfig) -> bool:
    """Tell whether the members claim it, and nothing else of the layer mixes tokens.

    The composed layer computes a gate, shared experts and a latent width by torch's products, which
    choose a kernel by the number of tokens. A dynamic scale over all tokens depends on all, and so
    do the replica of an expert and the ranks over which one DP rank's tokens are split.
    """
    if FORMATS[case.layer_spec.scheme.activations].spans_rows or case.layer_spec.is_balanced:
        return False
    if case.layout.size("tokens") > 1 or not row_under_test(case).batch_invariant:
        return False
    return case.layer != COMPOSED or (
        ALL2ALL.row(case.all2all).batch_invariant
        and not (case.gate or case.shared_experts or case.layer_spec.latent)
    )


def has_claim(observation: Observation) -> bool:
    """Return whether the case's members claim it."""
    return is_claimed(observation.subject.case)


def findings(observation: Observation) -> tuple[Finding, ...]:
    """Pass the last token of each rank's first call alone, and report what differs. Collective."""
    first = observation.calls[0]
    inputs = copied(first.inputs.part(LAST))
    returned = observation.subject.call(inputs.x, inputs.logits, inputs).out
    text = difference(first.output.out[LAST], judged_output(first.tokens.part(LAST), returned))
    return () if text is None else (Finding(check=CHECK.name, text=text),)


def difference(together: Tensor, alone: Tensor) -> str | None:
    """Return a message if two outputs of a token, [1, K], differ in any bit; else None.

    together: from the call with all tokens. A rank without tokens has [0, K].
    """
    title = "not batch invariant: "
    rule = "; its members' rows claim that a token's bits depend on no other (`batch_invariant`)"
    if together.shape != alone.shape:
        return f"{title}one token alone has an output of {list(alone.shape)}{rule}"
    text = differing_elements(together, alone, "when the last token is passed alone")
    return None if text is None else f"{title}{text}{rule}"


CHECK = Check(
    name="batch_invariance",
    run=findings,
    of_case=has_claim,
    collective=True,
    by_reference=False,
    phase="repeat",
)
