"""Write a stored run as one HTML file that needs neither network nor server.

The page's markup, style and script lie in `run_page/`; the run is JSON in a script element. The
script sets text, never markup, and the JSON has no `<`, so that nothing in an id or a message of
the code under test can become part of the page.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.matrix.case import AXES, MoETestConfig
from harness.record.proof import ORDER
from harness.record.result import Verdict
from harness.record.summary import BAD
from harness.report import failure_text, png
from harness.report.attribution import call_name
from harness.report.tables import heading, layout_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from harness.record.result import CaseResult
    from harness.record.run_info import RefusedCase
    from harness.report.tables import View

NAME = "report.html"  # of the file, by default
PARTS = Path(__file__).parent / "run_page"
MAX_PICTURE_BYTES = 16 * 2**20  # of all pictures together; further ones are named by their paths
EXAMPLES = 20  # refused cases that are shown for each reason
_PNG = b"\x89PNG\r\n\x1a\n"
# Columns beside the axes: what is tested, and the layout as a whole.
_DERIVED: dict[str, Callable[[MoETestConfig], str]] = {
    "member": lambda case: case.under_test,
    "layout": layout_name,
}


def write(run: View, folder: Path, path: Path) -> None:
    """Write the page of the run in `folder`, with its pictures. Raises OSError."""
    path.write_text(page(run, folder), encoding="utf-8")


def page(run: View, folder: Path) -> str:
    """Return the page's text."""
    text = json.dumps(page_data(run, folder), separators=(",", ":"), allow_nan=False)
    parts = {
        "STYLE": (PARTS / "page.css").read_text(encoding="utf-8"),
        "SCRIPT": (PARTS / "page.js").read_text(encoding="utf-8"),
        "TITLE": html.escape(heading(run)),
        "DATA": text.replace("<", "\\u003c"),
    }
    markup = (PARTS / "page.html").read_text(encoding="utf-8")
    return re.sub("@([A-Z]+)@", lambda match: parts[match[1]], markup)


def page_data(run: View, folder: Path) -> dict[str, Any]:
    """Return what the page shows, as JSON values."""
    cases = [MoETestConfig.from_id(result.case_id) for result in run.results]
    axes, places = _axes(cases)
    pictures = _Pictures(folder)
    return {
        "heading": heading(run),
        "summary": run.summary.line(),
        "counts": {
            **{str(verdict): run.summary.counts.get(verdict, 0) for verdict in Verdict},
            "left_out": run.summary.left_out,
        },
        "bad": [str(verdict) for verdict in (*BAD, Verdict.INFRA)],
        "axes": axes,
        "cases": [
            _case(result, place, pictures)
            for result, place in zip(run.results, places, strict=True)
        ],
        "phases": _phases(run.results),
        "refused": _reasons(run.refused),
        "proofs": _proofs(run.results),
    }


def _axes(cases: Sequence[MoETestConfig]) -> tuple[list[dict[str, Any]], list[list[int]]]:
    """Return the axes in which the cases differ, with their values; and each case's place on each.

    What is tested and the layout come first, and are there even if all cases have the same.
    """
    axes, columns = [], []
    for name, texts in _columns(cases):
        values = sorted(set(texts), key=_natural)
        if len(values) > 1 or name in _DERIVED:
            number = {value: i for i, value in enumerate(values)}
            axes.append({"name": name, "values": values})
            columns.append([number[text] for text in texts])
    return axes, [list(place) for place in zip(*columns, strict=True)]


def _columns(cases: Sequence[MoETestConfig]) -> Iterator[tuple[str, list[str]]]:
    for name, text_of in _DERIVED.items():
        yield name, [text_of(case) for case in cases]
    for name in AXES:
        yield name, [str(getattr(case, name)) for case in cases]


def _natural(text: str) -> tuple[bool, float, str]:
    """Return a sort key: numbers by size, before words."""
    try:
        return False, float(text), text
    except ValueError:
        return True, 0.0, text


def _case(result: CaseResult, place: list[int], pictures: _Pictures) -> dict[str, Any]:
    passed = result.verdict is Verdict.PASSED
    return {
        "id": result.case_id,
        "verdict": str(result.verdict),
        "seconds": round(result.seconds, 3),
        "at": place,
        "headline": _seed(result) if passed else failure_text.headline(result),
        "lines": failure_text.lines(result),
        "pictures": [] if passed else list(pictures.of(result)),
        "phases": {name: round(seconds, 3) for name, seconds in result.phases.items()},
        "earlier": [[str(a.verdict), round(a.seconds, 3), a.reason] for a in result.earlier],
    }


def _seed(result: CaseResult) -> str:
    """Return which seed was judged, if it is not the case's own."""
    return "" if result.seed is None else f"judged with seed {result.seed}"


class _Pictures:
    """Read a run's pictures, as long as there is room for them in the page."""

    def __init__(self, folder: Path) -> None:
        self._logs = folder / failure_text.LOGS
        self._room = MAX_PICTURE_BYTES

    def of(self, result: CaseResult) -> Iterator[dict[str, str]]:
        """Yield data and caption of each picture of a failed case that can be read."""
        for name, caption in _names(result):
            content = self._content(name)
            if content is not None:
                data = "data:image/png;base64," + base64.b64encode(content).decode()
                yield {"data": data, "caption": caption}

    def _content(self, name: str) -> bytes | None:
        """Return a picture, or None: absent, not a picture, outside of the logs, or too much."""
        try:
            content = (self._logs / Path(name).name).read_bytes()
        except (OSError, ValueError):
            return None
        if not content.startswith(_PNG) or len(content) > self._room:
            return None
        self._room -= len(content)
        return content


def _names(result: CaseResult) -> Iterator[tuple[str, str]]:
    """Yield the name of each picture that a case may have, and what it shows."""
    for diagnosis in result.diagnoses:
        for call in diagnosis.calls:
            if call.picture is not None:
                place = f"rank {diagnosis.rank}, {call_name(call.call)}"
                yield call.picture, f"{place}: errors, rows of the output down, columns across"
    if result.diagnoses:
        text = "share of wrong rows, experts down, ranks across (black none, yellow all)"
        yield f"{png.stem(result.case_id, 'experts')}.png", text


def _phases(results: Iterable[CaseResult]) -> dict[str, float]:
    """Return the seconds of each phase over all cases, the longest first."""
    seconds: Counter[str] = Counter()
    for result in results:
        seconds.update(result.phases)
    return {name: round(total, 3) for name, total in seconds.most_common()}


def _reasons(refused: Iterable[RefusedCase]) -> list[dict[str, Any]]:
    """Return each reason code, the most frequent first, with its number of cases and examples."""
    groups: dict[str, list[RefusedCase]] = defaultdict(list)
    for refusal in refused:
        groups[refusal.code].append(refusal)
    return [
        {
            "code": code,
            "count": len(group),
            "examples": [[r.case, r.text] for r in group[:EXAMPLES]],
        }
        for code, group in sorted(groups.items(), key=lambda item: -len(item[1]))
    ]


def _proofs(results: Iterable[CaseResult]) -> list[list[Any]]:
    """Return for each wrong answer of the self-checks how many cases had each outcome."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        for proof in result.battery:
            counts[proof.name][proof.outcome] += 1
    return [[name, *(outcomes[o] for o in ORDER)] for name, outcomes in sorted(counts.items())]
