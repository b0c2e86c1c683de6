"""Write a stored run as JUnit XML, in the dialect that Jenkins calls xunit2.

There is one `testcase` for each case, including refused ones. Every verdict in `BAD`, flaky
included, is a `failure` whose type is the verdict, so that viewers and the exit code agree. The
attempts before the last one follow it as Surefire writes them: `flakyFailure` if the last one
passed, else `rerunFailure`.
Properties belong to the suite, the only element for which the dialect allows them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from harness.record.result import Verdict
from harness.record.summary import BAD
from harness.report import failure_text

if TYPE_CHECKING:
    from pathlib import Path

    from harness.record.result import CaseResult
    from harness.record.run_info import RefusedCase
    from harness.report.tables import View

MAX_CASES = 5000  # test cases per file; viewers fail to load larger ones
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write(run: View, path: Path) -> list[Path]:
    """Write the run to `path`, or split into `NAME-1.xml`, `NAME-2.xml`, …; return the paths."""
    cases = [_case(result) for result in run.results] + [_skip(refusal) for refusal in run.refused]
    chunks = [cases[i : i + MAX_CASES] for i in range(0, len(cases), MAX_CASES)] or [[]]
    paths = [path]
    if len(chunks) > 1:
        paths = [path.with_name(f"{path.stem}-{i + 1}{path.suffix}") for i in range(len(chunks))]
    for target, chunk in zip(paths, chunks, strict=True):
        tree = ET.ElementTree(_suites(run, chunk))
        ET.indent(tree)
        tree.write(target, encoding="utf-8", xml_declaration=True)
    return paths


def _suites(run: View, cases: list[ET.Element]) -> ET.Element:
    counts = {
        "tests": str(len(cases)),
        "failures": str(sum(case.find("failure") is not None for case in cases)),
        "errors": "0",
    }
    name = run.info.suite or "cases"
    began = datetime.fromtimestamp(run.info.time, UTC).isoformat(timespec="seconds")
    root = ET.Element("testsuites", {"name": "moe-harness", **counts})
    skipped = str(sum(case.find("skipped") is not None for case in cases))
    attributes = {"name": name, **counts, "skipped": skipped, "timestamp": began}
    attributes["time"] = f"{run.summary.seconds:.3f}"
    suite = ET.SubElement(root, "testsuite", attributes)
    _properties(suite, run)
    suite.extend(cases)
    return root


def _properties(suite: ET.Element, run: View) -> None:
    info = run.info
    known = {"platform": info.platform.name, "git": info.git, **info.versions}
    properties = ET.SubElement(suite, "properties")
    for name, value in known.items():
        if value:
            ET.SubElement(properties, "property", {"name": name, "value": _clean(str(value))})


def _testcase(case_id: str, seconds: float = 0.0) -> ET.Element:
    attributes = {"classname": "moe.layer", "name": case_id, "time": f"{seconds:.3f}"}
    return ET.Element("testcase", attributes)


def _case(result: CaseResult) -> ET.Element:
    case = _testcase(result.case_id, result.seconds)
    if result.verdict is Verdict.NOT_RUN:
        skipped = {"type": "not_run", "message": "the run ended before this case"}
        ET.SubElement(case, "skipped", skipped)
    elif result.verdict is Verdict.KNOWN:
        message = _clean(failure_text.headline(result))
        ET.SubElement(case, "skipped", {"type": "known_failure", "message": message})
    elif result.verdict in BAD or result.verdict is Verdict.INFRA:
        _fail(case, result)
    return case


def _fail(case: ET.Element, result: CaseResult) -> None:
    attributes = {"type": str(result.verdict), "message": _clean(failure_text.headline(result))}
    text = "\n".join(failure_text.lines(result))
    ET.SubElement(case, "failure", attributes).text = _clean(text)
    name = "flakyFailure" if result.verdict is Verdict.FLAKY else "rerunFailure"
    for number, attempt in enumerate(result.earlier, 1):
        message = f"attempt {number}, {attempt.seconds:.3f} s: {attempt.reason}"
        attributes = {"type": str(attempt.verdict), "message": _clean(message)}
        ET.SubElement(case, name, attributes)


def _skip(refused: RefusedCase) -> ET.Element:
    case = _testcase(refused.case)
    message = _clean(f"{refused.code}: {refused.text}")
    ET.SubElement(case, "skipped", {"type": refused.code, "message": message})
    return case


def _clean(text: str) -> str:
    """Remove characters that XML cannot represent, such as terminal escapes."""
    return _NOT_XML.sub("", text)
