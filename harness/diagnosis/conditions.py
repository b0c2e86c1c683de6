"""Find the condition that tells changed items from right ones, such as "slot 3" or "rows >= 8".

An item is whatever was found to be changed or right: a row, or one of the terms that a row sums.
A condition is said only if it holds for every changed item and for no right one, and if so exact a
split is unlikely by chance. Items that could be either take no part.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from harness.record.diagnosis import IN_THE_WRONG
from harness.record.formatting import numbers_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

CHANCE = 0.02  # largest probability that a condition splits the items by chance
MOST_VALUES = 4  # that a condition lists
PERIODS = (4, 8, 16, 32, 64)  # of rows' numbers, beside the even and the odd ones
MOST_CONDITIONS = 2  # that split equally well and are named


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One thing that is known of each item.

    one, many: what it is called. values: [N] float64, NaN where an item has none. unit: what a
    value stands for, if for a range of numbers: value v for v * unit to (v + 1) * unit - 1.
    is_measured: values are measured and not counted, so that only a threshold makes sense. names:
    of the values 0, 1, ..., if these are no numbers; `one` and `many` are not used then. from_on,
    below: how values from {} on, and below {}, are put into words. within: [N] int64, of which
    larger thing each item is a part, if it has several, such as a row: those parts of one that have
    the same value count once, since a mistake may change the whole.
    """

    one: str
    many: str
    values: Tensor
    unit: int = 1
    is_measured: bool = False
    names: tuple[str, ...] = ()
    from_on: str = ""
    below: str = ""
    within: Tensor | None = None

    def with_values(self, values: Tensor) -> Fact:
        """Return the fact of other items."""
        return dataclasses.replace(self, values=values)

    def text(self, numbers: Sequence[int]) -> str:
        """Return these values in words, such as "slots 0-1"."""
        if self.names:
            return " and ".join(self.names[v] for v in numbers)
        covered = [v * self.unit + i for v in numbers for i in range(self.unit)]
        name = self.one if len(covered) == 1 else self.many
        return f"{name} {numbers_text(covered, max_runs=len(covered))}"

    def of_item(self, number: int) -> str:
        """Return an item's value in words; "" if it has none, or only a measured one."""
        value = float(self.values[number])
        return "" if self.is_measured or math.isnan(value) else self.text([int(value)])


@dataclass(frozen=True, kw_only=True)
class Condition:
    """A set of items. text: a noun phrase. holds: [N] bool. tried: sets of its kind there are."""

    text: str
    holds: Tensor
    tried: float


def splitting(facts: Sequence[Fact], changed: Tensor, right: Tensor) -> list[Condition]:
    """Return at most MOST_CONDITIONS of different facts, the simplest first, or two facts' joined.

    changed, right: [N] bool; every condition returned holds for all changed items and no right one.
    """
    number = int(changed.sum())
    if number == 0 or number == int((changed | right).sum()):
        return []
    share = CHANCE / max(len(facts), 1)
    by_fact = [list(_conditions(fact, changed, right)) for fact in facts]
    exact = [
        _simplest(of_fact, right, share * _ways(changed, right, fact))
        for fact, of_fact in zip(facts, by_fact, strict=True)
    ]
    conditions = sorted((c for c in exact if c is not None), key=lambda c: c.tried)
    joined = _joined(facts, by_fact, (changed, right), share) if not conditions else []
    return (conditions or joined)[:MOST_CONDITIONS]


def _ways(changed: Tensor, right: Tensor, *facts: Fact) -> float:
    """Return in how many ways as many items as are changed can be chosen among the known ones."""
    known, number = (_count(which, facts) for which in (changed | right, changed))
    ways = math.lgamma(known + 1) - math.lgamma(number + 1) - math.lgamma(known - number + 1)
    return math.exp(min(ways, 600.0))


def _count(which: Tensor, facts: Sequence[Fact]) -> int:
    """Return how many of these items [N] bool there are; see `Fact.within`."""
    if any(fact.within is None for fact in facts):
        return int(which.sum())
    keys = [key for fact in facts for key in (fact.within, fact.values) if key is not None]
    chosen = torch.stack([key[which].double().nan_to_num(nan=-1.0) for key in keys])
    return int(torch.unique(chosen, dim=1).shape[1])


def only_where(facts: Sequence[Fact], changed: Tensor) -> str:
    """Return the end of a sentence about the changed items only: by a condition, if one tells them.

    changed: [N] bool, not all of them.
    """
    conditions = splitting(facts, changed, ~changed)
    return f"for {conditions[0].text} only" if conditions else f"{IN_THE_WRONG} rows only"


def _simplest(
    conditions: Sequence[Condition], right: Tensor, most_tried: float
) -> Condition | None:
    """Return the condition with the fewest of its kind that holds for no right item."""
    exact = (c for c in conditions if c.tried < most_tried and not bool((c.holds & right).any()))
    return min(exact, key=lambda c: c.tried, default=None)


def _joined(
    facts: Sequence[Fact],
    by_fact: Sequence[Sequence[Condition]],
    items: tuple[Tensor, Tensor],
    share: float,
) -> list[Condition]:
    """Return conditions on two facts each, the simplest first; of each pair of facts only one.

    items: those that are changed, and the right ones.
    """
    share /= max(len(by_fact), 1)
    changed, right = items
    conditions = []
    for one, other in itertools.combinations(range(len(facts)), 2):
        both = itertools.product(by_fact[one], by_fact[other])
        pairs = [
            _both(a, b) for a, b in both if _is_needed(a, b, right) and _is_needed(b, a, right)
        ]
        simplest = _simplest(pairs, right, share * _ways(changed, right, facts[one], facts[other]))
        conditions += [] if simplest is None else [simplest]
    return sorted(conditions, key=lambda c: c.tried)


def _is_needed(a: Condition, b: Condition, right: Tensor) -> bool:
    """Tell whether a condition excludes right items that another one does not."""
    return bool((right & b.holds & ~a.holds).any())


def _both(a: Condition, b: Condition) -> Condition:
    """Return the condition that both hold."""
    text = f"{a.text} with {b.text}"
    return Condition(text=text, holds=a.holds & b.holds, tried=a.tried * b.tried)


def _conditions(fact: Fact, changed: Tensor, right: Tensor) -> Iterator[Condition]:
    """Yield the conditions on a fact that hold for all changed items."""
    values = fact.values
    if bool(values[changed].isnan().any()):
        return
    known = values[(changed | right) & ~values.isnan()]
    low, high = float(values[changed].min()), float(values[changed].max())
    if fact.is_measured:
        yield from _thresholds(fact, values, right, (low, high))
        return
    distinct = [int(v) for v in torch.unique(known).tolist()]
    yield from _of_numbers(fact, values, distinct, [int(v) for v in _unique(values[changed])])


def _unique(values: Tensor) -> list[float]:
    numbers: list[float] = torch.unique(values).tolist()
    return numbers


def _thresholds(
    fact: Fact, values: Tensor, right: Tensor, ends: tuple[float, float]
) -> Iterator[Condition]:
    """Yield "below x" and "above x", x between the changed and the right items."""
    low, high = ends
    others, tried = values[right & ~values.isnan()], 2.0 * len(values)
    above, below = others[others > high], others[others < low]
    if len(above):
        limit = (high + float(above.min())) / 2
        text = f"{fact.many} below {limit:.3g}"
        yield Condition(text=text, holds=values <= high, tried=tried)
    if len(below):
        limit = (low + float(below.max())) / 2
        text = f"{fact.many} above {limit:.3g}"
        yield Condition(text=text, holds=values >= low, tried=tried)


def _of_numbers(
    fact: Fact, values: Tensor, distinct: list[int], wanted: list[int]
) -> Iterator[Condition]:
    """Yield sets of counted values that contain the wanted ones; distinct: those there are."""
    low, high, count = wanted[0], wanted[-1], len(distinct)
    if count == 1:
        return

    def condition(text: str, holds: Tensor, tried: float) -> Condition:
        return Condition(text=text, holds=holds, tried=tried)

    if len(wanted) == 1:
        yield condition(fact.text(wanted), values == low, count)
    if len(wanted) == 1 or fact.names:
        return
    parity = {v % 2 for v in wanted}
    if len(parity) == 1 and count > 2:
        odd = parity.pop()
        yield condition(_parity_text(fact, odd), values % 2 == odd, 2)
    for period in PERIODS if fact.unit == 1 and "row" in fact.one else ():
        if len({v % period for v in wanted}) == 1 and 2 * period <= count:
            text = f"each {period}th of the {fact.many}, from {low % period}"
            yield condition(text, values % period == low % period, 2 * period)
    text = (fact.from_on or f"{fact.many} >= {{}}").format(low * fact.unit)
    yield condition(text, values >= low, count)
    text = (fact.below or f"{fact.many} < {{}}").format((high + 1) * fact.unit)
    yield condition(text, values <= high, count)
    inside = list(range(low, high + 1))
    holds = (values >= low) & (values <= high)
    yield condition(fact.text(inside), holds, count * (count + 1) / 2)
    if len(wanted) <= MOST_VALUES:
        holds = torch.isin(values, values.new_tensor(wanted))
        yield condition(fact.text(wanted), holds, math.comb(count, len(wanted)))
    others = [v for v in distinct if v not in wanted]
    if len(others) == 1 and count > 2:
        holds = (values != others[0]) & ~values.isnan()
        yield condition(f"{fact.many} other than {others[0] * fact.unit}", holds, count)


def _parity_text(fact: Fact, odd: int) -> str:
    if fact.unit == 1:
        return f"{('even', 'odd')[odd]} {fact.many}"
    return f"every second block of {fact.unit} of {fact.many}, from {odd * fact.unit} on"
