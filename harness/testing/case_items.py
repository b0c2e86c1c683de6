"""The cases of a suite as pytest items: file of the matrix, suite, world size, case.

What pytest shows of a case that does not pass is the harness's own report. No torch.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import HarnessError
from harness.matrix.case import AXES
from harness.record.result import Verdict
from harness.report import failure_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from harness.record.result import CaseResult
    from harness.testing.suite_cases import SuiteCase
    from harness.testing.suite_run import SuiteRun

CASE = "moe_case"  # names of the properties that reports of a case have
VERDICT = "moe_verdict"
MARK = "moe"  # the marker that has the value of every axis


class MatrixFile(pytest.File):
    """The matrix file; its only child is the suite."""

    run: SuiteRun

    def collect(self) -> Iterator[pytest.Collector]:
        """Yield the suite."""
        yield SuiteNode.from_parent(self, name=self.run.options.suite)


class SuiteNode(pytest.Collector):
    """A suite; its children are its world sizes."""

    def collect(self) -> Iterator[pytest.Collector]:
        """Yield a node for each world size, in the order of the cases. Raises HarnessError."""
        run = _run_of(self)
        worlds: dict[int, list[SuiteCase]] = {}
        for case in run.suite.cases:
            worlds.setdefault(case.case.world_size, []).append(case)
        for size, cases in worlds.items():
            yield WorldNode.from_parent(self, name=f"world{size}", cases=cases)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:  # type: ignore[override]
        """Return an expected error's own text."""
        if isinstance(excinfo.value, HarnessError):
            return str(excinfo.value)
        return super().repr_failure(excinfo)


class WorldNode(pytest.Collector):
    """The cases of one world size: `--dist loadscope` gives them to one worker."""

    def __init__(self, *, cases: list[SuiteCase], **known: Any) -> None:
        super().__init__(**known)
        self.cases = cases

    def collect(self) -> Iterator[pytest.Item]:
        """Yield the cases, refused ones too."""
        for case in self.cases:
            yield CaseItem.from_parent(self, name=case.case.id, case=case)


class CaseItem(pytest.Item):
    """One case."""

    def __init__(self, *, case: SuiteCase, **known: Any) -> None:
        super().__init__(**known)
        self.case = case
        self.result: CaseResult | None = None  # once it has run
        self.add_marker(getattr(pytest.mark, MARK)(**_values(case)))
        for name in _names(case, _run_of(self).options.suite):
            _register(self.config, name)
            self.add_marker(name)
        if case.refusal is not None:
            self.add_marker(pytest.mark.skip(f"{case.refusal.code}: {case.refusal.text}"))
        verdict = [] if case.refusal is None else [(VERDICT, str(Verdict.SKIPPED))]
        self.user_properties += [(CASE, case.case.id), ("moe_seed", case.case.seed), *verdict]

    def runtest(self) -> None:
        """Run the case on this process's gangs; fail unless it passes."""
        result = self.result = _run_of(self).run(self.case)
        members = [(f"moe_{family}", name) for family, name in result.members.items()]
        self.user_properties += [(VERDICT, str(result.verdict)), *members]
        if result.verdict is Verdict.PASSED:
            return
        headline = failure_text.headline(result)
        if result.verdict is Verdict.KNOWN:
            pytest.xfail(headline)
        pytest.fail(_report(result, headline, _run_of(self).folder), pytrace=False)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:  # type: ignore[override]
        """Return an expected error's own text: the machine failed, not the case."""
        if isinstance(excinfo.value, HarnessError):
            return f"{Verdict.INFRA}: {excinfo.value}"
        return super().repr_failure(excinfo)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Return the matrix file, the line of the case's block from 0, and the case's id."""
        return self.path, self.case.line - 1, self.name


def _report(result: CaseResult, headline: str, folder: Path) -> str:
    """Return the text of a failure; its first line is what pytest's summary shows."""
    return "\n".join([f"{result.verdict}: {headline}", *failure_text.lines(result, folder=folder)])


def _run_of(node: pytest.Item | pytest.Collector) -> SuiteRun:
    file = node.getparent(MatrixFile)
    assert file is not None
    return file.run


def _values(case: SuiteCase) -> dict[str, Any]:
    """Return the value of every axis, and the world size."""
    values = {name: getattr(case.case, name) for name in AXES}
    return {**values, "world": case.case.world_size}


def _names(case: SuiteCase, suite: str) -> Iterable[str]:
    """Return the markers that select a case by name alone."""
    config = case.case
    words = (
        ("suite", suite),
        ("world", config.world_size),
        ("experts", config.experts),
        ("quant", config.quant),
        ("all2all", config.all2all),
    )
    return [re.sub(r"\W", "_", f"{kind}_{value}") for kind, value in words]


def _register(config: pytest.Config, name: str) -> None:
    """Declare a marker, as --strict-markers asks."""
    line = f"{name}: cases of a matrix file"
    if line not in config.getini("markers"):
        config.addinivalue_line("markers", line)
