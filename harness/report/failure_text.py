"""Format a result as text: what is wrong, in which pattern, the likely cause, how to repeat it.

The console, reports, JUnit and logs share this text. Ranks that report the same are merged, and
the most useful lines come first, so that a text cut to fit a terminal loses little. Torch-free.
"""

from __future__ import annotations

import math
import re
import textwrap
from typing import TYPE_CHECKING

from harness.errors import CaseError
from harness.matrix.case import MoETestConfig
from harness.record.formatting import amount_text, experts_text, fact_lines, ranks_text
from harness.record.result import NOT_THE_SAME, Verdict
from harness.record.summary import count_command, repeat_command
from harness.report import png
from harness.report.attribution import Sources, call_name, source_suffix, sources_by_text
from harness.report.cause_text import CONSISTENT, LIKELY, NO_CAUSE, cause_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.record.diagnosis import CallDiagnosis, Facts
    from harness.record.result import CaseResult

MAX_LINES = 60  # lines of one case by default
WIDTH = 114  # columns of a line, except lines to copy; callers indent by up to six more
TRACEBACK = "Traceback (most recent call last)"
PICTURE = "picture: "
EARLY = ("gemm1", "activated_gate", "activation", "weight_on")  # places of the numerics
LARGEST_EXCESS = 1e9  # times a tolerance; beyond it, the tolerance was 0 or the error not finite
LOGS = "logs"  # subfolder of a run's folder with logs and pictures


def lines(
    result: CaseResult, max_lines: int | None = MAX_LINES, folder: Path | None = None
) -> list[str]:
    """Return the lines that explain a result: at most `max_lines`, None for all of them.

    A passed case has none. With `folder`, the run's folder, files are named by their path. The
    last line is the command that repeats the case; it is never wrapped.
    """
    if result.verdict is Verdict.PASSED:
        return []
    calls = _calls(result)
    body = _wrapped([*_reason(result), *_leading(result), *_summary(result, calls)])
    details = _wrapped([*_messages(result), *_details(calls, folder)])
    tail = [*_files(result, folder), *_count(result), f"repeat: {repeat_command(result.judged_id)}"]
    return _cut([*body, *details], tail, max_lines)


def headline(result: CaseResult) -> str:
    """Return one line: the leading finding, likely cause, pattern, or message, in this order."""
    calls = _calls(result)
    causes = [t for t in _summary(result, calls) if t.startswith((LIKELY, CONSISTENT, NO_CAUSE))]
    causes = [t for t in causes[:1] if not t.startswith(NO_CAUSE)]
    patterns = [t for t in _summary(result, calls) if t.startswith("pattern")]
    messages = [_first(text) for text in result.messages if text]
    return next(iter([*_leading(result), *causes, *patterns, *messages, result.reason or ""]))


def _count(result: CaseResult) -> list[str]:
    """Return the command that counts failures, where one call or run differed from another."""
    comes_and_goes = any(NOT_THE_SAME in text for text in result.messages)
    is_sporadic = comes_and_goes or result.verdict is Verdict.FLAKY
    return [f"how often: {count_command(result.judged_id)}"] if is_sporadic else []


def _first(text: str) -> str:
    """Return a message's first line; for a traceback the exception, which follows its frames."""
    head, *following = text.splitlines()
    prefix, colon, message = head.partition(": ")
    if not message.startswith(TRACEBACK):
        return head
    starts = [i for i, line in enumerate(following) if line.startswith(TRACEBACK)]
    after = following[starts[-1] + 1 if starts else 0 :]
    ends = [line for line in after if line and not line.startswith(" ")]
    return f"{prefix}{colon}{ends[0]}" if ends else head


def _calls(result: CaseResult) -> list[tuple[int, CallDiagnosis]]:
    return [(d.rank, call) for d in result.diagnoses for call in d.calls]


def _cut(body: list[str], tail: list[str], max_lines: int | None) -> list[str]:
    """Shorten `body` to fit `max_lines` with `tail`; a line says how many were left out."""
    if max_lines is None or len(body) + len(tail) <= max_lines:
        return [*body, *tail]
    room = max(max_lines - len(tail) - 1, 0)
    last = room // 4  # the last lines of a traceback name the exception
    more = f"… {len(body) - room} more lines: -v, or the run's events.jsonl, has all"
    return [*body[: room - last], more, *body[len(body) - last :], *tail]


def _wrapped(texts: list[str]) -> list[str]:
    wrapped: list[str] = []
    for text in texts:
        for line in text.splitlines():
            if line.lstrip().startswith(PICTURE):
                wrapped.append(line)  # a path must stay in one piece to be copied
                continue
            indent = " " * (len(line) - len(line.lstrip()) + 4)
            pieces = textwrap.wrap(
                line, WIDTH, subsequent_indent=indent, break_on_hyphens=False, tabsize=4
            )
            wrapped += pieces or [""]
    return wrapped


def _reason(result: CaseResult) -> list[str]:
    """Return the reason, and what each rank raised: the stacks of those that wait follow it."""
    if not result.reason:
        return []
    raised = [_first(text) for text in result.messages if TRACEBACK in text.partition("\n")[0]]
    return [f"reason: {result.reason}", *raised]


def _summary(result: CaseResult, calls: list[tuple[int, CallDiagnosis]]) -> Iterator[str]:
    """Yield the diagnosis in a few lines: ranks and calls, pattern, cause, first wrong stage."""
    if not calls:
        return
    yield f"wrong: {_where(result, calls)}"
    failed_calls = [(rank, call.call) for rank, call in calls]
    for text, sources in sources_by_text(calls, _pattern_texts).items():
        yield f"pattern{source_suffix(sources, failed_calls)}: {text}"
    yield from cause_lines(calls, failed_calls)
    if result.assumed is not None and any(call.output or call.stages for _, call in calls):
        text = "the row states none, and no customary ones make this right; nearest"
        yield f"numerics: {text}: {_early(result.assumed)}"
    yield from _stage_lines(calls, failed_calls)
    for text, sources in sources_by_text(calls, _fault_texts).items():
        suffix = source_suffix(sources, failed_calls)
        yield f"the diagnosis{suffix} failed, but the verdict stands: {text}"


def _early(declaration: str) -> str:
    """Return the roundings before the second product, as a declaration of numerics has them."""
    return ", ".join(re.findall(rf'\b(?:{"|".join(EARLY)})="\w+"', declaration))


def _where(result: CaseResult, calls: list[tuple[int, CallDiagnosis]]) -> str:
    """Return the failed ranks and calls, such as "rank 1 only, of 2, first call only, of 2"."""
    failed_ranks = sorted({rank for rank, _ in calls})
    text = _ranks_pattern(failed_ranks, result)
    failed = sorted({n for d in result.diagnoses for n in d.failed})
    total = max(d.of for d in result.diagnoses)
    if len(failed) == total:
        return f"{text}, {_all(total)} calls"
    if not all(d.every_call for d in result.diagnoses):
        # The failed check did not run in every call, so "only" would claim too much.
        calls_text = f"the {call_name(failed[0])}" if len(failed) == 1 else f"{len(failed)} calls"
        return f"{text}, seen in {calls_text} of {total}"
    if len(failed) == 1:
        return f"{text}, {call_name(failed[0])} only, of {total}"
    return f"{text}, {len(failed)} of {total} calls"


def _all(count: int) -> str:
    return "both" if count == 2 else f"all {count}"


def _ranks_pattern(failed_ranks: list[int], result: CaseResult) -> str:
    """Return the failed ranks in words, by their place in the layout if that fits."""
    all_ranks = sorted(int(rank) for rank in result.ranks)
    if len(all_ranks) <= 1:
        return "the only rank"
    if failed_ranks == all_ranks:
        return f"{_all(len(all_ranks))} ranks"
    text = f"{ranks_text(failed_ranks)} only, of {len(all_ranks)}"
    try:
        layout = MoETestConfig.from_id(result.case_id).layout
    except CaseError:
        return text
    for name, size, of in (
        ("tokens of DP rank", layout.dp_size, layout.dp_rank),
        ("context rank", layout.pcp_size, layout.pcp_rank),
        ("TP rank", layout.tp_size, layout.tp_rank),
        ("EP rank", layout.size("ep") if layout.size("ep") < len(all_ranks) else 1, layout.ep_rank),
    ):
        for index in range(size) if size > 1 else ():
            if failed_ranks == [rank for rank in all_ranks if of(rank) == index]:
                return f"{name} {index} only ({ranks_text(failed_ranks)} of {len(all_ranks)})"
    return text


def _pattern_texts(call: CallDiagnosis) -> list[str]:
    return [pattern.text for pattern in call.patterns]


def _stage_lines(
    calls: list[tuple[int, CallDiagnosis]], failed_calls: list[tuple[int, int]]
) -> Iterator[str]:
    """Yield the first wrong stage, with the numbers of one rank."""
    sources: Sources = {}
    texts: dict[str, str] = {}
    for rank, call in calls:
        for first in call.stages[:1]:
            sources.setdefault(first.stage, []).append((rank, call.call))
            texts.setdefault(first.stage, first.text)
    for stage, stage_sources in sources.items():
        rank, number = stage_sources[0]
        on = f"on rank {rank}, {call_name(number)}: " if len(stage_sources) > 1 else ""
        suffix = source_suffix(stage_sources, failed_calls)
        yield f"first wrong stage{suffix}: {stage}: {on}{texts[stage]}"


def _fault_texts(call: CallDiagnosis) -> list[str]:
    return [] if call.fault is None else [call.fault]


def _leading(result: CaseResult) -> list[str]:
    return [result.messages[number] for number in result.leading]


def _messages(result: CaseResult) -> list[str]:
    """Return messages that neither lead nor repeat a diagnosis with less detail."""
    shown = {*result.leading, *result.diagnosed}
    return [text for number, text in enumerate(result.messages) if number not in shown]


def _details(calls: list[tuple[int, CallDiagnosis]], folder: Path | None) -> Iterator[str]:
    """Yield the numbers of each call, the largest error first; equal texts of ranks are merged."""
    detailed = [
        (r, c, c.facts) for r, c in calls if c.facts and (c.wrong_rows or c.tried is not None)
    ]
    detailed.sort(key=lambda triple: -triple[2].rel_rms)
    groups: dict[tuple[int, str], list[tuple[int, CallDiagnosis]]] = {}
    for rank, call, facts in detailed:
        groups.setdefault((call.call, "\n".join(_detail(call, facts))), []).append((rank, call))
    for (number, text), alike in groups.items():
        yield f"{ranks_text([rank for rank, _ in alike])}, {call_name(number)}: {text}"
        for _, call in alike:
            if call.picture is not None:
                yield f"  {PICTURE}{_path(folder, call.picture)}"
            elif call.picture_fault is not None:
                yield f"  no picture: {call.picture_fault}"


def _detail(call: CallDiagnosis, facts: Facts) -> Iterator[str]:
    used = call.metrics.get("bound_used")
    yield f"{amount_text(facts)}{_excess(used)}"
    yield from fact_lines(facts)
    worst = experts_text(call.experts)
    if worst:
        yield f"  {worst}"


def _excess(used: float | str | None) -> str:
    """Return by how much a tolerance is exceeded; no number where none is allowed, or for NaN."""
    if used is None or not math.isfinite(float(used)) or float(used) > LARGEST_EXCESS:
        return ""
    return f", {float(used):.3g}x its tolerance"


def _files(result: CaseResult, folder: Path | None) -> list[str]:
    has_picture = any(call.picture is not None for _, call in _calls(result))
    experts = f"{png.stem(result.case_id, 'experts')}.png"
    files = [f"picture of experts and ranks: {_path(folder, experts)}"] if has_picture else []
    return [*files, *([f"log: {_path(folder, result.log)}"] if result.log else [])]


def _path(folder: Path | None, name: str) -> str:
    return name if folder is None else str(folder / LOGS / name)
