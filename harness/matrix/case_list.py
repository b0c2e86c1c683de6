"""`CaseList`: cases that are held as numbers, and made when somebody asks for them.

A suite of a million points is listed, planned and narrowed by their numbers and ids; a whole case
is made only of what runs. `Product` is the part of a list that one block of a suite makes.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from harness.matrix.case import MoETestConfig
from harness.matrix.coding import coding_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from harness.matrix.coding import Coding

    Part: TypeAlias = "Product | Sequence[MoETestConfig]"


class Product:
    """Hold the points of one block: every combination of some choices of fields, in order."""

    def __init__(self, choices: Iterable[Sequence[Mapping[str, Any]]]) -> None:
        """Check every value once. choices: for each key of the file the fields of its values.

        Raises CaseError for a value that no axis has.
        """
        choices = list(choices)
        first = {name: value for some in choices for name, value in some[0].items()}
        self.base = vars(MoETestConfig(**first)).copy()  # all fields of the first point
        self.choices = tuple(tuple(_checked(first, item) for item in some) for some in choices)

    def fields(self) -> Iterator[Mapping[str, Any]]:
        """Yield every value of every axis, as the fields that a choice sets."""
        return itertools.chain([self.base], *self.choices)

    def codes(self, coding: Coding) -> list[int]:
        """Return the number of each point."""
        chosen = {name for some in self.choices for name in some[0]}
        base = {name: value for name, value in self.base.items() if name not in chosen}
        codes = [coding.code(base)]
        for some in self.choices:
            bits = [coding.code(fields) for fields in some]
            codes = [code | more for code in codes for more in bits]
        return codes


def _checked(first: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields as a case has them, which names a row where the file has an alias."""
    case = MoETestConfig(**{**first, **fields})
    return {name: getattr(case, name) for name in fields}


class CaseList(Sequence[MoETestConfig]):
    """Hold cases in order as numbers of a coding. Each access makes a new case."""

    def __init__(self, coding: Coding, codes: Iterable[int]) -> None:
        self.coding = coding
        self.codes = tuple(codes)

    @classmethod
    def of(cls, parts: Sequence[Part]) -> CaseList:
        """Return the cases of all parts, each once."""
        products = [part for part in parts if isinstance(part, Product)]
        cases = [case for part in parts if not isinstance(part, Product) for case in part]
        fields = itertools.chain.from_iterable(product.fields() for product in products)
        coding = coding_of(fields, cases)
        return cls(coding, dict.fromkeys(code for part in parts for code in _codes(part, coding)))

    def ids(self) -> Iterator[str]:
        """Yield the id of each case, without making the case."""
        return map(self.coding.id, self.codes)

    def where(self, keep: Iterable[bool]) -> CaseList:
        """Return the cases for which `keep` is true. keep: one value for each case."""
        return CaseList(self.coding, itertools.compress(self.codes, keep))

    def joined(self, cases: CaseList) -> CaseList:
        """Return these cases, and then those of another list of the same coding."""
        if not cases.codes:
            return self
        assert not self.codes or cases.coding is self.coding
        return CaseList(cases.coding, (*self.codes, *cases.codes))

    def distinct(self) -> CaseList:
        """Return the cases, each once, at its first position."""
        return CaseList(self.coding, dict.fromkeys(self.codes))

    def repeated(self, times: int) -> CaseList:
        """Return all cases `times` times, one round after another."""
        return CaseList(self.coding, self.codes * times)

    def with_value(self, axis: str, value: Any) -> CaseList:
        """Return the cases with one value of an axis; cases that become equal are merged.

        Raises CaseError for a value that the axis does not have.
        """
        if not self.codes:
            return self
        case = self.coding.case(0).replace(**{axis: value})  # checks the value
        left = ~self.coding.mask([axis])
        codes = dict.fromkeys(code & left for code in self.codes)
        return CaseList(self.coding.with_value(axis, getattr(case, axis)), codes)

    def with_seeds(self, count: int) -> CaseList:
        """Return each case with `count` seeds, starting at its own; equal cases are merged."""
        old, steps = self.coding, range(count)
        new = old.with_more("seed", (s + i for s in old.values("seed") for i in steps))
        codes = (
            old.moved(code, new, "seed", old.value(code, "seed") + i)
            for code in self.codes
            for i in steps
        )
        return CaseList(new, dict.fromkeys(codes))

    def with_more(self, axis: str, values: Iterable[Any]) -> CaseList:
        """Return the cases in a coding that has further values of an axis, for later changes."""
        old, new = self.coding, self.coding.with_more(axis, values)
        return CaseList(
            new, (old.moved(code, new, axis, old.value(code, axis)) for code in self.codes)
        )

    def count_if(self, holds: Callable[[MoETestConfig], bool], axes: Iterable[str]) -> int:
        """Return of how many cases something holds that depends on some axes only."""
        bits = self.coding.mask(axes)
        counts = Counter(code & bits for code in self.codes)
        return sum(n for code, n in counts.items() if holds(self.coding.case(code)))

    def __len__(self) -> int:
        return len(self.codes)

    def __iter__(self) -> Iterator[MoETestConfig]:
        return map(self.coding.case, self.codes)

    @overload
    def __getitem__(self, index: int) -> MoETestConfig: ...
    @overload
    def __getitem__(self, index: slice) -> CaseList: ...
    def __getitem__(self, index: int | slice) -> MoETestConfig | CaseList:
        if isinstance(index, slice):
            return CaseList(self.coding, self.codes[index])
        return self.coding.case(self.codes[index])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence):
            return NotImplemented
        if isinstance(other, CaseList) and other.coding is self.coding:
            return self.codes == other.codes
        return len(self) == len(other) and all(map(MoETestConfig.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]


def case_list(cases: Iterable[MoETestConfig]) -> CaseList:
    """Return cases as a list of numbers; such a list as it is."""
    if isinstance(cases, CaseList):
        return cases
    cases = tuple(cases)
    coding = coding_of((), cases)
    return CaseList(coding, map(coding.code_of, cases))


def _codes(part: Part, coding: Coding) -> Iterable[int]:
    return part.codes(coding) if isinstance(part, Product) else map(coding.code_of, part)
