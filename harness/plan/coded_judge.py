"""Judge the points of a `CaseList` by their numbers: each rule once per values of what it reads.

The answers of a rule are kept by the bits of the axes that it reads. Needs declare these; of other
rules the axes are learned as they are read, and an answer holds for every point that has the same
values of them. Lists of rules keep their first refusals alike, so that most points are one look-up,
and a whole case is made only where an answer is new. No torch.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from harness.plan import row_needs
from harness.plan.memo import AxesReader, axes_read
from harness.plan.refusals import RowRule, asks_for_auto
from moe.oracle import AUTO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from harness.matrix.case import MoETestConfig
    from harness.matrix.coding import Coding
    from harness.plan.refusals import Judge, Rule
    from moe.spec import Need, Reason

T = TypeVar("T")
_ESTIMATES = (row_needs.interpreter_time, row_needs.small_tiles_time, row_needs.memory)
_MOST = 1 << 17  # answers that one rule keeps


class _Cases:
    """Make the case of a number; the last one is kept, since several rules ask for it."""

    def __init__(self, coding: Coding) -> None:
        self.coding = coding
        self._last: tuple[int, MoETestConfig] | None = None

    def __call__(self, code: int) -> MoETestConfig:
        if self._last is None or self._last[0] != code:
            self._last = code, self.coding.case(code)
        return self._last[1]


class _Answers(Generic[T]):
    """Keep answers by the bits of what they depend on. A subclass computes new ones."""

    def __init__(self, mask: int = 0) -> None:
        self.mask = mask
        self._kept: dict[int, T] = {}

    def __call__(self, code: int) -> T:
        """Return the answer for a point."""
        try:
            return self._kept[code & self.mask]
        except KeyError:
            return self._new(code)

    def _new(self, code: int) -> T:
        answer, read = self.compute(code)
        self.mask |= read  # earlier answers stay: they depend on fewer bits, which their keys have
        if len(self._kept) >= _MOST:
            self._kept.clear()
        self._kept[code & self.mask] = answer
        return answer

    def compute(self, code: int) -> tuple[T, int]:
        """Return the answer, and the bits that it depends on."""
        raise NotImplementedError


class _Learned(_Answers[T]):
    """Ask a function of a case, and keep what it reads of the case."""

    def __init__(self, function: Callable[[MoETestConfig], T], cases: _Cases) -> None:
        super().__init__()
        self._function, self._cases = function, cases

    def compute(self, code: int) -> tuple[T, int]:
        reader = AxesReader(self._cases(code))
        answer = self._function(cast("MoETestConfig", reader))
        return answer, self._cases.coding.mask(reader.axes)


class _OfNeed(_Answers["Reason | None"]):
    """Ask one need, which declares what it reads."""

    def __init__(self, need: Need, cases: _Cases) -> None:
        super().__init__(cases.coding.mask(axes_read((need,))))
        self._need, self._cases = need, cases

    def compute(self, code: int) -> tuple[Reason | None, int]:
        return self._need.refuse(self._cases(code).layer_spec), self.mask


class _First(_Answers["Reason | None"]):
    """Find the first refusal in a list; it depends on what the rules up to there depend on."""

    def __init__(self, rules: Sequence[_Answers[Reason | None]]) -> None:
        super().__init__()
        self._rules = rules

    def compute(self, code: int) -> tuple[Reason | None, int]:
        read = 0
        for rule in self._rules:
            reason = rule(code)
            read |= rule.mask
            if reason is not None:
                return reason, read
        return None, read


class _Best(_Answers[str]):
    """Choose the backend that stands for `auto`: the first that no rule refuses."""

    def __init__(
        self, judge: Judge, listed: Callable[[Iterable[Rule]], _First], cases: _Cases
    ) -> None:
        super().__init__()
        self._judge, self._cases = judge, cases
        self._candidates = _Learned(
            lambda case: [(name, listed(rules)) for name, rules in judge.candidates(case)], cases
        )

    def compute(self, code: int) -> tuple[str, int]:
        candidates, read = self._candidates(code), self._candidates.mask
        for name, rules in candidates:
            reason = rules(code)
            read |= rules.mask
            if reason is None:
                return name, read
        return self._judge.best(self._cases(code)), read  # raises, with every reason


class CodedJudge:
    """Judge points as `Judge` judges cases: the same rules in the same order."""

    def __init__(self, judge: Judge, coding: Coding) -> None:
        """Judge points of one coding. It must have the names that can stand for `auto`."""
        self._coding, self._cases = coding, _Cases(coding)
        self._rules: dict[Any, _Answers[Reason | None]] = {}
        self._is_auto = AUTO in coding.values("experts")
        self._best = _Best(judge, self._list, self._cases)
        self._first = _Learned(lambda case: self._of_named(judge, case), self._cases)
        self._members = _Learned(lambda case: self._list(judge.member_rules(case)), self._cases)

    def __call__(self, code: int) -> tuple[int, Reason | None]:
        """Return the point, with a backend in place of `auto`, and the reason it cannot run."""
        reason = self._first(code)(code)
        if reason is None and self._is_auto and self._coding.value(code, "experts") == AUTO:
            code = self._coding.changed(code, "experts", self._best(code))
            reason = self._members(code)(code)
        return code, reason

    def _of_named(self, judge: Judge, case: MoETestConfig) -> _First:
        """Return all rules of a point with these names; those of its layer, if it has `auto`."""
        members = () if asks_for_auto(case) else judge.member_rules(case)
        return self._list((*judge.layer_rules(case), *members))

    def _list(self, rules: Iterable[Rule]) -> _First:
        """Return the first refusal of some rules; those that read few axes are asked together."""
        runs = (tuple(run) for _, run in groupby(rules, _reads_sizes))
        return _First([_First([*map(self._rule, run)]) for run in runs])

    def _rule(self, rule: Rule) -> _Answers[Reason | None]:
        """Return the answers of a rule, the same for the same rule."""
        key = (rule.needs_of, rule.name) if isinstance(rule, RowRule) else rule
        if key not in self._rules:
            self._rules[key] = self._answers(rule)
        return self._rules[key]

    def _answers(self, rule: Rule) -> _Answers[Reason | None]:
        if isinstance(rule, RowRule):
            return _OfRow(rule, self._cases)
        return _Learned(rule, self._cases)


def _reads_sizes(rule: Rule) -> bool:
    """Return whether a rule estimates memory or time, for which it reads almost all axes."""
    return isinstance(rule, RowRule) and rule.needs_of in _ESTIMATES


class _OfRow(_First):
    """Ask the needs of a row, which are looked up at the first question."""

    def __init__(self, rule: RowRule, cases: _Cases) -> None:
        super().__init__(())
        self._row, self._cases = rule, cases

    def compute(self, code: int) -> tuple[Reason | None, int]:
        if not self._rules:
            self._rules = [_OfNeed(need, self._cases) for need in self._row.needs]
        return super().compute(code)
