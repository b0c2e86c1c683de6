"""Find backends whose declared `Numerics` make their tolerance wider than necessary. No torch.

The tolerance of a case follows from the backend's declaration, so a declaration that is too loose
hides errors. A single case cannot show this, as its roundings may have been small by chance. If
many cases stay far below their tolerance, the declaration is probably too loose. This is a hint
and changes no verdict.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from harness.matrix.case import MoETestConfig
from harness.record.result import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.record.result import CaseResult

ENOUGH = 4  # passed cases of a backend and a quantization method
# The fraction of its tolerance that at least one row should use. Correct declarations reach 0.4
# and more; fp8 on Hopper, whose tolerance allows many codes to flip, 0.13 (docs/bounds.md).
LITTLE = 0.08


def hints(results: Iterable[CaseResult]) -> list[str]:
    """Return a line for each experts backend and quantization method far below its tolerance."""
    used: dict[tuple[str, str], list[float]] = defaultdict(list)
    for result in results:
        case = MoETestConfig.from_id(result.case_id)
        fraction = result.metrics.get("bound_used")
        if result.verdict is Verdict.PASSED and fraction is not None and not case.exact:
            used[case.under_test, case.quant].append(fraction)
    return [
        f"backend {experts}, quant {quant}, used at most {100 * max(fractions):.2g} % of its "
        f"tolerance in {len(fractions)} cases: its `Numerics` are probably too loose"
        for (experts, quant), fractions in sorted(used.items())
        if len(fractions) >= ENOUGH and max(fractions) < LITTLE
    ]
