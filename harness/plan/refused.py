"""`Refused`: the points of a plan that do not run, with their reasons, held as a `CaseList`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import TYPE_CHECKING, overload

from harness.matrix.case_list import case_list

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from harness.matrix.case import MoETestConfig
    from harness.matrix.case_list import CaseList
    from moe.spec import Reason


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Hold a point that does not run, and the reason."""

    case: MoETestConfig
    reason: Reason


class Refused(Sequence[Refusal]):
    """Hold refusals in order. Each access makes the case anew."""

    def __init__(self, cases: CaseList | None = None, reasons: Iterable[Reason] = ()) -> None:
        self.cases = case_list(()) if cases is None else cases
        self.reasons = tuple(reasons)

    def where(self, keep: Iterable[bool]) -> Refused:
        """Return the refusals for which `keep` is true. keep: one value for each refusal."""
        keep = tuple(keep)
        return Refused(self.cases.where(keep), compress(self.reasons, keep))

    def joined(self, cases: CaseList, reasons: Iterable[Reason]) -> Refused:
        """Return these refusals, and then others whose cases are of the same coding."""
        return Refused(self.cases.joined(cases), (*self.reasons, *reasons))

    def counts(self) -> Counter[str]:
        """Return the number of refusals by reason code, codes in the order of the points."""
        return Counter(reason.code for reason in self.reasons)

    def examples(self) -> Refused:
        """Return the first refusal of each reason code."""
        first: dict[str, int] = {}
        for i, reason in enumerate(self.reasons):
            first.setdefault(reason.code, i)
        return self.where(first[r.code] == i for i, r in enumerate(self.reasons))

    def __len__(self) -> int:
        return len(self.reasons)

    def __iter__(self) -> Iterator[Refusal]:
        pairs = zip(self.cases, self.reasons, strict=True)
        return (Refusal(case=case, reason=reason) for case, reason in pairs)

    @overload
    def __getitem__(self, index: int) -> Refusal: ...
    @overload
    def __getitem__(self, index: slice) -> Refused: ...
    def __getitem__(self, index: int | slice) -> Refusal | Refused:
        if isinstance(index, slice):
            return Refused(self.cases[index], self.reasons[index])
        return Refusal(case=self.cases[index], reason=self.reasons[index])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]
