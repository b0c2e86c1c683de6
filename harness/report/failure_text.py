"""A result as a message for people: what is wrong, in which pattern, why, and how to repeat it.

One text for the console, reports, JUnit and logs. Ranks that say the same are named once; what
matters most comes first, so that cutting it to fit a terminal costs the least. Torch-free.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from harness.errors import CaseError
from harness.formatting import amount_text, experts_text, fact_lines, ranks_text
from harness.matrix.case import MoETestConfig
from harness.record.result import Verdict
from harness.record.summary import repeat_command
from harness.report import png
from harness.report.attribution import Said, call_name, said, who_says
from harness.report.cause_text import NO_CAUSE, cause_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from harness.record.diagnosis import CallDiagnosis, Facts
    from harness.record.result import CaseResult

MOST = 60  # lines of one case, unless all are asked for
WIDTH = 114  # of a line, but for the one to copy: six columns are left to whoever indents
TRACEBACK = "Traceback (most recent call last)"
PICTURE = "picture: "
LOGS = "logs"  # where a run's folder keeps them, and the pictures


def lines(result: CaseResult, most: int | None = MOST, folder: Path | None = None) -> list[str]:
    """At most `most` lines; None: all of them. Passed cases have none.

    folder: the run's, so that its files are named with their path. The last line repeats the
    case and is never wrapped.
    """
    if result.verdict is Verdict.PASSED:
        return []
    calls = _calls(result)
    body = _wrapped([*_reason(result), *_leading(result), *_summary(result, calls)])
    rest = _wrapped([*_messages(result), *_details(calls, folder)])
    tail = [*_files(result, folder), f"repeat: {repeat_command(result.case_id)}"]
    return _cut([*body, *rest], tail, most)


def headline(result: CaseResult) -> str:
    """One line: what leads, the likely cause, the first pattern, the first message or exception."""
    calls = _calls(result)
    causes = [t for t in _summary(result, calls) if t.startswith(("likely cause", NO_CAUSE))]
    causes = [t for t in causes[:1] if not t.startswith(NO_CAUSE)]
    patterns = [t for t in _summary(result, calls) if t.startswith("pattern")]
    said = [_first(text) for text in result.messages if text]
    return next(iter([*_leading(result), *causes, *patterns, *said, result.reason or ""]))


def _first(text: str) -> str:
    """A message's first line; of a traceback the exception, which stands behind its frames."""
    head, *rest = text.splitlines()
    who, colon, what = head.partition(": ")
    if not what.startswith(TRACEBACK):
        return head
    starts = [i for i, line in enumerate(rest) if line.startswith(TRACEBACK)]
    after = rest[starts[-1] + 1 if starts else 0 :]
    ends = [line for line in after if line and not line.startswith(" ")]
    return f"{who}{colon}{ends[0]}" if ends else head


def _calls(result: CaseResult) -> list[tuple[int, CallDiagnosis]]:
    return [(d.rank, call) for d in result.diagnoses for call in d.calls]


def _cut(said: list[str], tail: list[str], most: int | None) -> list[str]:
    """The tail always; of the rest the beginning and, of what is left out, the number."""
    if most is None or len(said) + len(tail) <= most:
        return [*said, *tail]
    room = max(most - len(tail) - 1, 0)
    last = room // 4  # a traceback says what happened in its last lines
    more = f"… {len(said) - room} more lines: -v, or the run's events.jsonl, has all"
    return [*said[: room - last], more, *said[len(said) - last :], *tail]


def _wrapped(said: list[str]) -> list[str]:
    found: list[str] = []
    for text in said:
        for line in text.splitlines():
            if line.lstrip().startswith(PICTURE):
                found.append(line)  # a path is there to be copied
                continue
            indent = " " * (len(line) - len(line.lstrip()) + 4)
            pieces = textwrap.wrap(
                line, WIDTH, subsequent_indent=indent, break_on_hyphens=False, tabsize=4
            )
            found += pieces or [""]
    return found


def _reason(result: CaseResult) -> list[str]:
    return [f"reason: {result.reason}"] if result.reason else []


def _summary(result: CaseResult, calls: list[tuple[int, CallDiagnosis]]) -> Iterator[str]:
    """Where, pattern, cause, stage: the answer in a few lines."""
    if not calls:
        return
    yield f"wrong: {_where(result, calls)}"
    everyone = [(rank, call.call) for rank, call in calls]
    for text, who in said(calls, _pattern_texts).items():
        yield f"pattern{who_says(who, everyone)}: {text}"
    yield from cause_lines(calls, everyone)
    yield from _stage_lines(calls, everyone)
    for text, who in said(calls, _fault_texts).items():
        yield f"the diagnosis{who_says(who, everyone)} failed, the verdict stands: {text}"


def _where(result: CaseResult, calls: list[tuple[int, CallDiagnosis]]) -> str:
    wrong = sorted({rank for rank, _ in calls})
    text = _ranks_pattern(wrong, result)
    failed = sorted({n for d in result.diagnoses for n in d.failed})
    total = max(d.of for d in result.diagnoses)
    if len(failed) == total:
        return f"{text}, {_all(total)} calls"
    if not all(d.every_call for d in result.diagnoses):
        # What failed was not looked at in every call: nothing is known of the others
        which = f"the {call_name(failed[0])}" if len(failed) == 1 else f"{len(failed)} calls"
        return f"{text}, seen in {which} of {total}"
    if len(failed) == 1:
        return f"{text}, {call_name(failed[0])} only, of {total}"
    return f"{text}, {len(failed)} of {total} calls"


def _all(count: int) -> str:
    return "both" if count == 2 else f"all {count}"


def _ranks_pattern(wrong: list[int], result: CaseResult) -> str:
    """Which ranks, and what they are in the layout."""
    everyone = sorted(int(rank) for rank in result.ranks)
    if len(everyone) <= 1:
        return "the only rank"
    if wrong == everyone:
        return f"{_all(len(everyone))} ranks"
    text = f"{ranks_text(wrong)} only, of {len(everyone)}"
    try:
        layout = MoETestConfig.from_id(result.case_id).layout
    except CaseError:
        return text
    for name, size, of in (
        ("tokens of DP rank", layout.dp_size, layout.dp_rank),
        ("TP rank", layout.tp_size, layout.tp_rank),
    ):
        for index in range(size) if size > 1 else ():
            if wrong == [rank for rank in everyone if of(rank) == index]:
                return f"{name} {index} only ({ranks_text(wrong)} of {len(everyone)})"
    return text


def _pattern_texts(call: CallDiagnosis) -> list[str]:
    return [pattern.text for pattern in call.patterns]


def _stage_lines(
    calls: list[tuple[int, CallDiagnosis]], everyone: list[tuple[int, int]]
) -> Iterator[str]:
    """The first stage that departs, with one rank's numbers."""
    who: Said = {}
    texts: dict[str, str] = {}
    for rank, call in calls:
        for first in call.stages[:1]:
            who.setdefault(first.stage, []).append((rank, call.call))
            texts.setdefault(first.stage, first.text)
    for stage, those in who.items():
        rank, number = those[0]
        on = f"on rank {rank}, {call_name(number)}: " if len(those) > 1 else ""
        yield f"first wrong stage{who_says(those, everyone)}: {stage}: {on}{texts[stage]}"


def _fault_texts(call: CallDiagnosis) -> list[str]:
    return [] if call.fault is None else [call.fault]


def _leading(result: CaseResult) -> list[str]:
    return [result.messages[number] for number in result.leading]


def _messages(result: CaseResult) -> list[str]:
    """The ranks' own messages, less those above and those that the diagnoses say better."""
    elsewhere = {*result.leading, *result.diagnosed}
    return [text for number, text in enumerate(result.messages) if number not in elsewhere]


def _details(calls: list[tuple[int, CallDiagnosis]], folder: Path | None) -> Iterator[str]:
    """Numbers of each call, the most wrong first; ranks that hold the same tokens once."""
    told = [(r, c, c.facts) for r, c in calls if c.facts and (c.wrong_rows or c.tried is not None)]
    told.sort(key=lambda triple: -triple[2].rel_rms)
    groups: dict[tuple[int, str], list[tuple[int, CallDiagnosis]]] = {}
    for rank, call, facts in told:
        groups.setdefault((call.call, "\n".join(_detail(call, facts))), []).append((rank, call))
    for (number, text), who in groups.items():
        yield f"{ranks_text([rank for rank, _ in who])}, {call_name(number)}: {text}"
        for _, call in who:
            if call.picture is not None:
                yield f"  {PICTURE}{_path(folder, call.picture)}"
            elif call.picture_fault is not None:
                yield f"  no picture: {call.picture_fault}"


def _detail(call: CallDiagnosis, facts: Facts) -> Iterator[str]:
    used = call.metrics.get("bound_used")
    share = "" if used is None else f", {float(used):.3g}x its bound"
    yield f"{amount_text(facts)}{share}"
    yield from fact_lines(facts)
    worst = experts_text(call.experts)
    if worst:
        yield f"  {worst}"


def _files(result: CaseResult, folder: Path | None) -> list[str]:
    drawn = any(call.picture is not None for _, call in _calls(result))
    experts = f"{png.stem(result.case_id, 'experts')}.png"
    files = [f"picture of experts and ranks: {_path(folder, experts)}"] if drawn else []
    return [*files, *([f"log: {_path(folder, result.log)}"] if result.log else [])]


def _path(folder: Path | None, name: str) -> str:
    return name if folder is None else str(folder / LOGS / name)
