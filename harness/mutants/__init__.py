"""Known mistakes, and the output that a layer would return under each of them.

The table has two uses. The self-check of every case asks whether the checks would reject the
mistakes marked `battery`; the diagnosis asks which mistake gives the actual output. Each row names
a function in its family's module; the table itself does not import torch.
"""

from __future__ import annotations

from harness.mutants.experts_table import INSIDE_EXPERTS
from harness.mutants.hypothesis import FEW, MORE_ROWS, Hypothesis, NotApplicable, features_of
from harness.mutants.layer_table import AROUND_EXPERTS

__all__ = [
    "FEW",
    "HYPOTHESES",
    "MORE_ROWS",
    "Hypothesis",
    "NotApplicable",
    "features_of",
    "named",
]

HYPOTHESES: tuple[Hypothesis, ...] = (*AROUND_EXPERTS, *INSIDE_EXPERTS)


def named(name: str) -> Hypothesis:
    """Return the mistake of this name. Raises KeyError."""
    return {h.name: h for h in HYPOTHESES}[name]
