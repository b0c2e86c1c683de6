"""Keep what `fuzz` found: append the smallest cases to the file that every suite runs. No torch.

Without a file that is named, or `configs/regressions.yaml` in the current folder, nothing is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from harness.errors import HarnessError
from harness.matrix.case import AXES, MoETestConfig
from harness.record import regressions
from harness.record.regressions import Regression
from harness.report import failure_text

if TYPE_CHECKING:
    from pathlib import Path

    from harness.record.result import CaseResult


@dataclass(frozen=True, kw_only=True)
class Keeper:
    """Where failing cases are kept. path: None if nowhere. is_named: by an option."""

    path: Path | None
    is_named: bool

    @classmethod
    def of(cls, path: Path | None) -> Keeper:
        """Return the keeper for a file, or for the default one if it is there.

        Raises ConfigError and UsageError for a file that cannot be read.
        """
        is_named, default = path is not None, regressions.DEFAULT
        kept_in = path if is_named else (default if default.exists() else None)
        if kept_in is not None and kept_in.exists():
            regressions.load(kept_in)
        return cls(path=kept_in, is_named=is_named)

    def line(self, result: CaseResult) -> str:
        """Append a failing case; return the line that says whether it was, and where."""
        if self.path is None:
            return "not kept: --regressions FILE appends it to a file that every suite runs"
        case = MoETestConfig.from_id(result.case_id)
        paths = [
            value for a in AXES.values() if a.family and ":" in (value := getattr(case, a.name))
        ]
        if paths and not self.is_named:
            return f"not kept: {paths[0]} is not a name of a table; --regressions FILE keeps it"
        try:
            like = regressions.append(self.path, _entry(result))
        except HarnessError as error:  # the run has its verdicts, whatever becomes of the file
            return f"not kept: {error}"
        if like is not None:
            return f"kept already in {self.path}, as {like.case}"
        return f"kept in {self.path}: every suite of the matrix file beside it runs it"


def _entry(result: CaseResult) -> Regression:
    return Regression.model_validate(
        {
            "case": result.case_id,
            "verdict": str(result.verdict),
            "cause": failure_text.headline(result),
            "origin": f"{datetime.now(UTC):%Y-%m-%d}, fuzz",
        }
    )
