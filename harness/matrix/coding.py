"""`Coding`: the points of a suite as whole numbers, so that a million of them fit into memory.

Each axis with several values has some bits of the number, which say the position of its value. An
id is joined from texts of tokens that are made once, and the axes that a rule reads are one mask.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from harness.matrix.case import AXES, MoETestConfig, token_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

_TEXTS = 1 << 16  # texts of each half of a number that are kept


@dataclass(frozen=True, kw_only=True)
class _Field:
    """The bits of one axis in a number: from `shift` up to, not including, `end`."""

    name: str
    values: tuple[Any, ...]
    positions: Mapping[Any, int]
    shift: int
    end: int
    mask: int

    @classmethod
    def of(cls, name: str, values: Iterable[Any], shift: int) -> _Field:
        distinct = tuple(dict.fromkeys(values)) or (None,)
        end = shift + (len(distinct) - 1).bit_length()
        return cls(
            name=name,
            values=distinct,
            positions={value: i for i, value in enumerate(distinct)},
            shift=shift,
            end=end,
            mask=(1 << end) - (1 << shift),
        )

    def moved(self, bits: int) -> _Field:
        shift, end = self.shift + bits, self.end + bits
        return replace(self, shift=shift, end=end, mask=(1 << end) - (1 << shift))

    def value(self, code: int) -> Any:
        return self.values[(code & self.mask) >> self.shift]


class Coding:
    """Turn points into numbers and back. All values are checked, and none is an alias."""

    def __init__(self, fields: Iterable[_Field]) -> None:
        """Hold the bits of every axis. fields: in the order of the axes."""
        self._fields = {field.name: field for field in fields}
        self._varied = [field for field in self._fields.values() if len(field.values) > 1]
        self._same = {name: field.values[0] for name, field in self._fields.items()}
        self._cut = self._middle()
        self._low_bits = (1 << self._cut) - 1
        self._high, self._low = self._texts()

    @classmethod
    def of(cls, values: Mapping[str, Iterable[Any]]) -> Coding:
        """Give each axis its bits. values: of every axis; repeated ones count once."""
        fields: list[_Field] = []
        for name in reversed(AXES):  # the first axis is in the highest bits, as it is in ids
            fields.append(_Field.of(name, values[name], fields[-1].end if fields else 0))
        return cls(reversed(fields))

    def with_value(self, axis: str, value: Any) -> Coding:
        """Return the coding in which an axis has one value, whose bits are zero."""
        one = replace(self._fields[axis], values=(value,), positions={value: 0})
        return Coding((self._fields | {axis: one}).values())

    def with_more(self, axis: str, values: Iterable[Any]) -> Coding:
        """Return the coding in which an axis has further values; the axes before it move up."""
        old = self._fields[axis]
        new = _Field.of(axis, (*old.values, *values), old.shift)
        names = list(self._fields)
        before = names[: names.index(axis)]
        moved = {name: self._fields[name].moved(new.end - old.end) for name in before}
        return Coding((self._fields | moved | {axis: new}).values())

    def moved(self, code: int, wider: Coding, axis: str, value: Any) -> int:
        """Return the number that a case has in `with_more` of this coding, with a new value."""
        old, new = self._fields[axis], wider._fields[axis]
        low = code & ((1 << old.shift) - 1)
        return (code >> old.end << new.end) | (new.positions[value] << new.shift) | low

    def values(self, axis: str) -> tuple[Any, ...]:
        """Return the values of an axis."""
        return self._fields[axis].values

    def mask(self, axes: Iterable[str]) -> int:
        """Return the bits of these axes."""
        return sum(self._fields[name].mask for name in axes)

    def code(self, fields: Mapping[str, Any]) -> int:
        """Return the bits of some axes with these values."""
        parts = (self._fields[name] for name in fields)
        return sum(part.positions[fields[part.name]] << part.shift for part in parts)

    def code_of(self, case: MoETestConfig) -> int:
        """Return the number of a case."""
        return sum(f.positions[getattr(case, f.name)] << f.shift for f in self._varied)

    def changed(self, code: int, axis: str, value: Any) -> int:
        """Return the number of the case with another value of an axis."""
        field = self._fields[axis]
        return (code & ~field.mask) | (field.positions[value] << field.shift)

    def value(self, code: int, axis: str) -> Any:
        """Return the value of one axis of a point."""
        return self._fields[axis].value(code)

    def case(self, code: int) -> MoETestConfig:
        """Return the case that a number stands for."""
        varied = {field.name: field.value(code) for field in self._varied}
        return MoETestConfig.of_checked(self._same | varied)

    def id(self, code: int) -> str:
        """Return the id of the case that a number stands for."""
        return (self._high(code >> self._cut) + self._low(code & self._low_bits))[1:]

    def _middle(self) -> int:
        """Return a number of low bits that have about as many values as the high ones."""
        bits = sum(field.end - field.shift for field in self._varied)
        ends = (field.shift for field in self._varied)
        return min(ends, key=lambda end: abs(2 * end - bits), default=0)

    def _texts(self) -> tuple[Callable[[int], str], Callable[[int], str]]:
        """Return what makes the text of the high and of the low bits; each keeps its results."""
        fields = self._fields.values()
        high = [field for field in fields if field.shift >= self._cut and field.end > self._cut]
        low = [field for field in fields if field not in high]
        return _text_of(high, self._cut), _text_of(low, 0)


def _text_of(fields: list[_Field], cut: int) -> Callable[[int], str]:
    @lru_cache(maxsize=_TEXTS)
    def text(code: int) -> str:
        values = ((field.name, field.value(code << cut)) for field in fields)
        return "".join(token_text(*item) for item in values)

    return text


def coding_of(fields: Iterable[Mapping[str, Any]], cases: Iterable[MoETestConfig]) -> Coding:
    """Return the coding of all values in some sets of fields and some cases."""
    values: dict[str, dict[Any, None]] = {name: {} for name in AXES}
    for some in fields:
        for name, value in some.items():
            values[name][value] = None
    for case in cases:
        for name, known in values.items():
            known[getattr(case, name)] = None
    return Coding.of(values)
