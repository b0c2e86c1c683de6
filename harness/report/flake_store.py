"""Keep the results of many runs in an SQLite file, and count how often each case is flaky.

A result counts as a flake if the case failed and passed on the same code: it is `flaky`, or it
failed in one run and passed in another of the same commit, clean of changes, on the same platform.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.errors import UsageError
from harness.record.result import Verdict
from harness.record.summary import BAD
from harness.report import failure_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from harness.report.tables import View

VERSION = 1  # of the tables; an SQLite file's `user_version`
_TABLES = f"""
CREATE TABLE runs (
    run TEXT PRIMARY KEY, name TEXT NOT NULL, time REAL NOT NULL, revision TEXT, platform TEXT
);
CREATE TABLE results (
    run TEXT NOT NULL REFERENCES runs (run), case_id TEXT NOT NULL, verdict TEXT NOT NULL,
    seconds REAL NOT NULL, message TEXT NOT NULL, PRIMARY KEY (run, case_id)
);
CREATE INDEX results_by_case ON results (case_id);
PRAGMA user_version = {VERSION};
"""
_ALL = """
SELECT case_id, verdict, message, name, revision, platform
FROM results JOIN runs USING (run) ORDER BY case_id, time
"""
_DIRTY = "-dirty"  # the end of a revision with changes that were not committed


@dataclass(frozen=True, kw_only=True)
class CaseHistory:
    """Count a case's verdicts. last_failure: run and message, None if it never failed."""

    case_id: str
    counts: Mapping[str, int]
    flakes: int
    last_failure: tuple[str, str] | None

    @property
    def runs(self) -> int:
        return sum(self.counts.values())

    @property
    def rate(self) -> float:
        """Return the fraction of its runs in which the case was flaky."""
        return self.flakes / self.runs


@contextmanager
def opened(path: Path | None) -> Iterator[sqlite3.Connection]:
    """Open a file, or a store in memory. Raises UsageError if the file is not such a store."""
    store = None
    try:
        store = sqlite3.connect(":memory:" if path is None else path)
        _check(store, path)
        yield store
        store.commit()
    except sqlite3.Error as error:
        raise UsageError(f"cannot use {str(path)!r} as a store of results: {error}") from error
    finally:
        if store is not None:
            store.close()


def _check(store: sqlite3.Connection, path: Path | None) -> None:
    """Make the tables in an empty file. Raises UsageError for a file of something else."""
    (version,) = store.execute("PRAGMA user_version").fetchone()
    (tables,) = store.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables:
        store.executescript(_TABLES)
    elif version != VERSION:
        raise UsageError(
            f"{str(path)!r} is an SQLite file, but not a store of results of version {VERSION}: "
            f"its user_version is {version}; name a new file"
        )


def add(store: sqlite3.Connection, run: View) -> None:
    """Add a run's results. A run that was added before, perhaps incomplete, is replaced."""
    data = json.dumps(run.info.to_json(), sort_keys=True)
    key = hashlib.sha256(data.encode()).hexdigest()
    info = run.info
    store.execute("DELETE FROM results WHERE run = ?", (key,))
    store.execute(
        "INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?)",
        (key, run.name, info.time, info.git, info.platform.name),
    )
    store.executemany(
        "INSERT INTO results VALUES (?, ?, ?, ?, ?)",
        [
            (key, r.case_id, str(r.verdict), r.seconds, _storable(failure_text.headline(r)))
            for r in run.results
            if r.verdict is not Verdict.NOT_RUN
        ],
    )


def _storable(text: str) -> str:
    """Replace halves of surrogate pairs, which UTF-8 has no bytes for."""
    return text.encode(errors="replace").decode()


def count_runs(store: sqlite3.Connection) -> int:
    (count,) = store.execute("SELECT count(*) FROM runs").fetchone()
    return int(count)


def histories(store: sqlite3.Connection) -> list[CaseHistory]:
    """Return each case's history: the flakiest first, then those that failed most often."""
    rows: dict[str, list[tuple[str, ...]]] = {}
    for case_id, *row in store.execute(_ALL):
        rows.setdefault(case_id, []).append(tuple(row))
    known = [_history(case_id, results) for case_id, results in rows.items()]
    return sorted(known, key=lambda h: (-h.rate, -_failures(h), h.case_id))


def _history(case_id: str, rows: list[tuple[str, ...]]) -> CaseHistory:
    """rows: verdict, message, run, revision and platform of each run, the earliest first."""
    failed = [row for row in rows if row[0] in BAD]
    return CaseHistory(
        case_id=case_id,
        counts=Counter(row[0] for row in rows),
        flakes=sum(_is_flake(row, rows) for row in failed),
        last_failure=(failed[-1][2], failed[-1][1]) if failed else None,
    )


def _is_flake(row: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> bool:
    """Return whether the case also passed, in the same run or on the same code elsewhere."""
    verdict, _, _, *code = row
    is_clean = code[0] is not None and not code[0].endswith(_DIRTY)
    passed = (other[0] == Verdict.PASSED and list(other[3:]) == code for other in rows)
    return verdict == Verdict.FLAKY or (is_clean and any(passed))


def _failures(history: CaseHistory) -> int:
    return sum(history.counts.get(verdict, 0) for verdict in BAD)


def lines(known: Iterable[CaseHistory], runs: int) -> list[str]:
    """Return two lines for each case that ever failed, and a line of counts."""
    known = list(known)
    failed = [history for history in known if history.last_failure is not None]
    shown = []
    for history in failed:
        counts = ", ".join(f"{count} {verdict}" for verdict, count in history.counts.items())
        shown.append(f"{100 * history.rate:5.1f} %  {history.case_id}  ({counts})")
        if history.last_failure is not None:
            name, message = history.last_failure
            shown.append(f"         last failure in {name}: {message}")
    flaky = sum(history.flakes > 0 for history in failed)
    return [*shown, f"runs={runs} cases={len(known)} failed={len(failed)} flaky={flaky}"]
