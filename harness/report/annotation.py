"""Write the annotation of a build: markdown within the limits of Buildkite.

At most 1 MiB, no inline styles, no scripts. What does not fit is left out from the end of the list
of failures, and counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.record.result import Verdict
from harness.record.summary import BAD
from harness.report import failure_text
from harness.report.tables import heading, lists, markdown_tables

if TYPE_CHECKING:
    from harness.record.result import CaseResult
    from harness.record.summary import Summary
    from harness.report.tables import View

MAX_BYTES = 1024 * 1024 - 1024
LINES = 30  # of a failure


def style(summary: Summary) -> str:
    """Return Buildkite's word for how the run ended."""
    if any(summary.counts.get(verdict, 0) for verdict in BAD):
        return "error"
    is_open = any(summary.counts.get(verdict, 0) for verdict in (Verdict.INFRA, Verdict.NOT_RUN))
    return "warning" if is_open or not summary.counts.get(Verdict.PASSED, 0) else "success"


def of_error(title: str, message: str) -> str:
    """Return an annotation that says why there is no result."""
    text = _quoted(f"#### {title}: no result", message.splitlines())
    return text.encode()[:MAX_BYTES].decode(errors="ignore")


def of_run(run: View, max_bytes: int = MAX_BYTES) -> str:
    """Return a run: counts, failures each with its text, refusals by reason, tables."""
    head = f"#### {heading(run)}\n\n`{run.summary.line()}`\n\n"
    tail = "".join(
        f"{_folded(title, lines)}\n"
        for title, lines in lists(run)
        if lines and title != "did not pass"
    )
    tables = "\n\n".join(markdown_tables(run))
    for ending in (f"{tail}{tables}\n", tail, ""):
        room = max_bytes - len((head + ending).encode())
        if room > max_bytes // 2 or not ending:
            break
    return f"{head}{_failures(run, room)}{ending}"


def _failures(run: View, room: int) -> str:
    """Return the failures that fit into so many bytes, and a line that counts the others."""
    more = "{} more did not pass: the JUnit file and the run's folder have them all.\n\n"
    room -= len(more.encode()) + 10
    texts: list[str] = []
    for result in run.bad:
        text = _failure(result)
        room -= len(text.encode())
        if room < 0:
            break
        texts.append(text)
    remaining = len(run.bad) - len(texts)
    return "".join(texts) + (more.format(remaining) if remaining else "")


def _failure(result: CaseResult) -> str:
    return _folded(
        f"{result.verdict} {result.case_id}", failure_text.lines(result, max_lines=LINES)
    )


def _folded(title: str, lines: list[str]) -> str:
    body = "\n".join(lines).replace("```", "'''")
    summary = title.replace("&", "&amp;").replace("<", "&lt;")
    return f"<details><summary>{summary}</summary>\n\n```text\n{body}\n```\n\n</details>\n\n"


def _quoted(title: str, lines: list[str]) -> str:
    body = "\n".join(lines).replace("```", "'''")
    return f"{title}\n\n```text\n{body}\n```\n"
