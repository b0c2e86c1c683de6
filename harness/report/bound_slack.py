"""Members that declare more noise than they make: their bounds are wider than they need be.

A bound follows what a row declares, so a false declaration hides errors. No single case can tell:
its roundings may have been lucky. But where none of many cases comes near its bound, the row
claims too much. A hint, no verdict. No torch.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from harness.matrix.case import MoETestConfig
from harness.record.result import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from harness.record.result import CaseResult

ENOUGH = 4  # passed cases of a member and a quantization method
# Of its bound that some row should have taken: true declarations give .4 and more, but for fp8 on
# Hopper, where a bound leaves room for many codes to flip, .13 and more (docs/bounds.md).
LITTLE = 0.08


def hints(results: Iterable[CaseResult]) -> list[str]:
    """One line for each experts backend and quantization method that stays far below its bounds."""
    used: dict[tuple[str, str], list[float]] = defaultdict(list)
    for result in results:
        case = MoETestConfig.from_id(result.case_id)
        share = result.metrics.get("bound_used")
        if result.verdict is Verdict.PASSED and share is not None and not case.exact:
            used[case.under_test, case.quant].append(share)
    return [
        f"{experts}, quant {quant}: no row of {len(shares)} cases took more than {max(shares):.2g} "
        "of its bound; the row of the backend may declare more noise than it makes (numerics)"
        for (experts, quant), shares in sorted(used.items())
        if len(shares) >= ENOUGH and max(shares) < LITTLE
    ]
