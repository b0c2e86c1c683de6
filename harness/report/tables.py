"""Format a stored run as console tables or markdown, from its folder alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.matrix.case import MoETestConfig
from harness.record.events import RunEnded, RunStarted
from harness.record.result import CaseResult, Verdict
from harness.record.run_folder import last_results
from harness.record.summary import BAD, Summary, summarize
from harness.report import bound_slack, common_failures, failure_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from harness.record.events import Event
    from harness.record.run_folder import RunFolder
    from harness.record.run_info import RefusedCase, RunInfo

SLOWEST = 5
LEFT_OUT = 20  # lines


@dataclass(frozen=True, kw_only=True)
class View:
    """A run as read from its folder."""

    name: str  # of the folder
    info: RunInfo
    results: tuple[CaseResult, ...]  # the last result of each case to run; `not_run` if none
    refused: tuple[RefusedCase, ...]
    summary: Summary

    @property
    def bad(self) -> tuple[CaseResult, ...]:
        return tuple(r for r in self.results if r.verdict in BAD or r.verdict is Verdict.INFRA)


def view(folder: RunFolder) -> View:
    """Read the folder of a run, complete or not. Raises UsageError if a case's id is unknown."""
    events = folder.events()
    folder.cases_of(folder.info.cases)  # as every report reads them
    last, cases = last_results(events), folder.info.cases
    refused = folder.info.refused
    return View(
        name=folder.path.name,
        info=folder.info,
        results=tuple(last.get(c) or CaseResult(case_id=c, verdict=Verdict.NOT_RUN) for c in cases),
        refused=refused,
        summary=summarize(
            cases, len(refused), last, _seconds(events), left_out=len(folder.info.left_out)
        ),
    )


def _seconds(events: Sequence[Event]) -> float:
    """Return the wall time of the run in seconds, summed over its start and each resumption.

    A part without `RunEnded` was interrupted and counts up to its last event.
    """
    total, began, latest = 0.0, None, 0.0
    for event in events:
        if isinstance(event, RunStarted):
            total += latest - began if began is not None else 0.0
            began = event.time
        elif isinstance(event, RunEnded):
            total, began = total + event.seconds, None
        latest = event.time
    return total + (latest - began if began is not None else 0.0)


def console(run: View) -> str:
    """Return the report for a terminal; its last line is the summary line."""
    parts = [heading(run)]
    for title, table in _tables(run):
        parts.append(_aligned(title, table))
    parts += [f"{title}\n{_indented(lines)}" for title, lines in lists(run) if lines]
    return "\n\n".join([*parts, run.summary.line()])


def markdown(run: View) -> str:
    """Return the report as markdown, for a CI annotation or a pull request."""
    parts = [f"### {heading(run)}", f"`{run.summary.line()}`"]
    parts += markdown_tables(run)
    for title, lines in lists(run):
        if lines:
            body = "\n".join(lines).replace("```", "'''")
            parts.append(
                f"<details><summary>{title}</summary>\n\n```text\n{body}\n```\n\n</details>"
            )
    return "\n\n".join(parts) + "\n"


def markdown_tables(run: View) -> list[str]:
    """Return the tables of counts in markdown."""
    return [markdown_table(head, rows) for _, (head, *rows) in _tables(run)]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in markdown."""
    cells = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def layout_name(case: MoETestConfig) -> str:
    """Return the layout in words: `dp2 tp2 ep`, or `one rank`."""
    sizes = {"dp": case.dp_size, "pcp": case.pcp_size, "tp": case.tp_size}
    sizes |= {"moe_tp": case.moe_tp_size, "expert_dp": case.expert_dp_size}
    words = [f"{name}{size}" for name, size in sizes.items() if size > 1]
    words += ["ep"] if case.use_ep else []
    words += ["sp"] if case.sequence_parallel else []
    return " ".join(words) or "one rank"


def heading(run: View) -> str:
    """Return what ran where, in one line."""
    return f"{run.info.suite or 'chosen cases'} on {run.info.platform.name}, {run.name}"


def _tables(run: View) -> list[tuple[str, list[list[str]]]]:
    pairs = [(MoETestConfig.from_id(r.case_id), r.verdict) for r in run.results]
    if not pairs:
        return []
    by_member = _grid(pairs, lambda case: case.under_test, lambda case: case.quant, "experts")
    by_layout = _grid(pairs, layout_name, lambda case: case.under_test, "layout")
    return [("by member and quantization", by_member), ("by layout and member", by_layout)]


def _grid(
    pairs: Iterable[tuple[MoETestConfig, Verdict]],
    row_of: Callable[[MoETestConfig], str],
    column_of: Callable[[MoETestConfig], str],
    corner: str,
) -> list[list[str]]:
    """Return a table of counts by verdict, its first row the heading."""
    cells: dict[tuple[str, str], Counter[Verdict]] = defaultdict(Counter)
    rows: dict[str, None] = {}
    columns: dict[str, None] = {}
    for case, verdict in pairs:
        row, column = row_of(case), column_of(case)
        rows[row], columns[column] = None, None
        cells[row, column][verdict] += 1
    table = [[row, *(_cell(cells[row, column]) for column in columns)] for row in rows]
    return [[corner, *columns], *table]


def _cell(counts: Counter[Verdict]) -> str:
    if not counts:
        return "-"
    other = [f"{count} {verdict}" for verdict, count in counts.items() if verdict != "passed"]
    passed = f"{counts[Verdict.PASSED]} passed"
    return ", ".join([passed, *other]) if counts[Verdict.PASSED] else ", ".join(other)


def lists(run: View) -> list[tuple[str, list[str]]]:
    """Return the lists of a report, each with its title; some may be empty."""
    slow = sorted(run.results, key=lambda r: -r.seconds)[:SLOWEST]
    return [
        ("in common", common_failures.lines(run.results)),
        ("did not pass", [line for result in run.bad for line in _failure(result)]),
        ("slowest", [f"{r.seconds:8.2f}s  {r.case_id}" for r in slow if r.seconds > 0]),
        ("skipped, by reason", skip_lines(run.refused)),
        ("left out by the time budget", _left_out(run.info.left_out)),
        ("tolerances wider than necessary", bound_slack.hints(run.results)),
    ]


def _failure(result: CaseResult) -> list[str]:
    head = f"{result.verdict}  {result.case_id}"
    return [head, *(f"  {line}" for line in failure_text.lines(result))]


def _left_out(case_ids: Sequence[str]) -> list[str]:
    """Return a line for each of the first cases, and one that counts the others."""
    more = len(case_ids) - LEFT_OUT
    return [*case_ids[:LEFT_OUT], *([f"... {more} more, in run.json"] if more > 0 else [])]


def skip_lines(refused: Sequence[RefusedCase]) -> list[str]:
    """Return a line for each reason code: the number of cases, an example, and its reason."""
    examples = {refusal.code: refusal for refusal in reversed(refused)}
    counts = Counter(refusal.code for refusal in refused)
    return reason_lines(counts, (examples[code] for code in counts))


def reason_lines(counts: Counter[str], examples: Iterable[RefusedCase]) -> list[str]:
    """Return the lines of `skip_lines` from counts by code, and the first case of each code."""
    ordered = sorted(examples, key=lambda refusal: -counts[refusal.code])
    return [f"{counts[r.code]:6d}  {r.code}: e.g. {r.case}: {r.text}" for r in ordered]


def _aligned(title: str, table: list[list[str]]) -> str:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in table]
    return f"{title}\n{_indented([line.rstrip() for line in lines])}"


def _indented(lines: Sequence[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)
